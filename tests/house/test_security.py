"""SECURITY.md names tests: each of them is there, and no promise is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
AT_LEAST = 25


def test_there_are_names() -> None:
    assert len(NAMED) >= AT_LEAST


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_a_named_test_is_there(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("section", ["What loading never does", "What publishing never does"])
def test_every_promise_has_its_test(section: str) -> None:
    [body] = re.findall(rf"## {section}\n(.*?)\n## ", TEXT, re.DOTALL)
    promises = body.strip().split("\n- ")
    assert len(promises) >= 2
    assert [promise for promise in promises if "::test_" not in promise] == []
