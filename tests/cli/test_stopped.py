"""Ctrl-C and a polite kill."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("moment", ["data", "base", "step", "evaluation", "scoring", "verifying"])
@pytest.mark.parametrize(("signum", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_stopped_by_a_signal(
    refused: Any,
    tree: Any,
    train: Any,
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    signum: str,
    code: int,
    word: str,
) -> None:
    """At whatever moment of a run: the store is as it was."""
    from pefttune.cli.progress import Display

    before = tree(tmp_path / "adapters")
    monkeypatch.setattr(Display, f"_show_{moment}", lambda self, event: signal.raise_signal(getattr(signal, signum)))
    refused(train("--json"), code, "Stopped", word)
    assert tree(tmp_path / "adapters") == before
    left = {path.name for path in tmp_path.glob("runs/tiny/*/*")}
    assert left <= {"log.jsonl", "recipe.yaml", "best.safetensors", "comparison.json", "figure.png", "report.html"}
    assert {"log.jsonl", "recipe.yaml"} <= left  # its story is kept


def test_ctrl_c(tree: Any, processes: Any, shop: Any) -> None:
    """The real thing: the signal comes from outside, somewhere within a step."""
    folder, job = processes["ctrl-c"]
    before, done = job.result()
    assert (done.code, done.out, done.err[-19:]) == (130, "", "error: interrupted\n"), before + done.err
    assert "Traceback" not in done.err
    assert tree(folder / "adapters") == tree(shop.store)
    assert not list(folder.rglob("*.partial"))
