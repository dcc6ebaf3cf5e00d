"""`--allow-base-mismatch`: what differs has to be named, nothing else may, and all that is written says so."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pefttune.cli.mismatch import FIELDS
from pefttune.store import write_manifest

ALLOWED = ("--allow-base-mismatch", "tokenizer")
COMMANDS: dict[str, list[str]] = {
    "predict": ["predict", "tiny", "a fine film"],
    "evaluate": ["evaluate", "tiny", "--data", "reviews.jsonl"],
    "verify": ["verify", "tiny"],
}


@pytest.fixture
def mismatch(shop: Any, known_bases: Path, tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """A store whose adapter was trained with another tokenizer, as far as its manifest tells; and how that differs."""
    shutil.copy(shop.reviews, tmp_path)
    folder = Path(shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / "1"))
    manifest = json.loads((folder / "pefttune.json").read_text())
    here = manifest["base"]["fingerprint"]["tokenizer"]
    manifest["base"]["fingerprint"]["tokenizer"] = "other"
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})
    return {"tokenizer": {"here": here, "there": "other"}}


def test_the_fields_are_those_of_a_fingerprint() -> None:
    from pefttune.bases import Fingerprint

    assert tuple(field.name for field in dataclasses.fields(Fingerprint)) == FIELDS


@pytest.mark.parametrize("kind", COMMANDS)
def test_it_is_asked_for_and_recorded(
    command: Any, refused: Any, mismatch: dict[str, Any], tiny: Path, kind: str
) -> None:
    asked = [*COMMANDS[kind], "--base", tiny]
    told = f"They differ in: tokenizer ({mismatch['tokenizer']['here']} here, other there)"
    refused(command(*asked, "--json"), 2, "AdapterError", told)
    other = command(*asked, "--allow-base-mismatch", "config", "--allow-base-mismatch", "tensors", "--json")
    refused(other, 2, "AdapterError", told)
    done = command(*asked, *ALLOWED, "--json")
    assert done.code == 0, done.err
    assert done.document["base_mismatch"] == mismatch
    assert f"as was asked for. {told}. Nothing proves what it answers" in done.err.replace("\n", " ")


def test_what_was_not_allowed_alone_is_refused(
    command: Any, refused: Any, mismatch: dict[str, Any], new_model: Any, tmp_path: Path
) -> None:
    new_model(tmp_path / "another", seed=1)
    done = command("predict", "tiny", "text", "--base", tmp_path / "another", *ALLOWED, "--json")
    refused(done, 2, "AdapterError", "They differ in: tensors (")
    assert "tokenizer (" not in done.document["error"]
    both = command(
        "predict",
        "tiny",
        "text",
        "--base",
        tmp_path / "another",
        *ALLOWED,
        "--allow-base-mismatch",
        "tensors",
        "--json",
    )
    assert sorted(both.document["base_mismatch"]) == ["tensors", "tokenizer"]


def test_files_say_so_row_by_row(command: Any, mismatch: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    asked = ["predict", "tiny", "--input", "reviews.jsonl", "--base", tiny, *ALLOWED]
    assert command(*asked, "--output", "out.csv").code == 0
    with (tmp_path / "out.csv").open() as file:
        assert {row["base_mismatch"] for row in csv.DictReader(file)} == {"tokenizer"}
    assert {json.loads(line)["base_mismatch"] for line in command(*asked).out.splitlines()} == {"tokenizer"}
    assert command(*asked, "--output", "out.html").code == 0
    assert "tiny, on another base than its own (tokenizer)" in (tmp_path / "out.html").read_text()


def test_on_its_own_base_nothing_is_added(command: Any, shop: Any, known_bases: Path) -> None:
    done = command("predict", "tiny", "--input", shop.reviews, "--store", shop.store, *ALLOWED)
    assert "base_mismatch" not in done.out
    assert done.err == ""


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_field_that_is_none(command: Any, refused: Any, kind: str) -> None:
    done = command(*COMMANDS[kind], "--allow-base-mismatch", "everything", "--json")
    refused(done, 2, "InputError", f"--allow-base-mismatch everything: a base's fingerprint has {', '.join(FIELDS)}")
