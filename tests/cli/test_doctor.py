"""`pefttune doctor` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def doctor(command: Any, shop: Any) -> Any:
    """Examines the shop's recipe: `doctor("data.max_length=9")`."""
    return lambda *arguments: command("doctor", shop.recipe, *arguments)


def test_a_sound_recipe(doctor: Any, shop: Any) -> None:
    done = doctor()
    assert done.code == 0, done.err
    assert "rows of reviews.jsonl" in done.out
    assert "<|assistant|>good<|end|>" in done.out
    assert done.out.endswith("nothing to mend\n")


def test_the_marks_of_a_head(doctor: Any) -> None:
    assert "→good" in doctor("task.approach=head").out


def test_an_error_is_bad_input(doctor: Any) -> None:
    done = doctor("data.max_length=513")
    told = "error: data.max_length is 513 tokens, but the base has 512 positions. Set it to 512 or less.\n1 error\n"
    assert (done.code, done.out.endswith(told)) == (2, True)


@pytest.mark.parametrize(("changes", "code"), [([], 0), (["data.max_length=513"], 2)])
def test_json_is_one_document(doctor: Any, changes: list[str], code: int) -> None:
    done = doctor(*changes, "--json")
    assert done.code == code
    assert done.document["counts"] == {"error": code // 2, "warning": 0, "note": 0}
    assert len(done.document["findings"]) == code // 2
    assert {token["role"] for token in done.document["shown"][0]["tokens"]} == {"read", "trained"}
    assert set(done.document["parts"]) == {"train", "validation", "test"}


def test_a_page(doctor: Any, tmp_path: Path) -> None:
    done = doctor("--html", tmp_path / "new" / "page.html")
    assert done.code == 0, done.err
    assert done.err.endswith(f"written: {tmp_path}/new/page.html\n")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_that_cannot_be_written(doctor: Any, tmp_path: Path, refused: Any) -> None:
    refused(doctor("--html", tmp_path, "--json"), 2, "InputError", "is a folder: name a file")
    (tmp_path / "file").touch()
    refused(doctor("--html", tmp_path / "file" / "page.html", "--json"), 1, "StorageError", "could not be written")


def test_bad_input_is_told_as_in_training(doctor: Any, refused: Any, tmp_path: Path) -> None:
    refused(doctor("data.source=none.csv", "--json"), 2, "DataError", "none.csv does not exist")
    refused(doctor("base.source=./none", "--json"), 2, "BaseError", "there is no folder or file ./none")
    refused(doctor("data.max_length=9", "--json"), 2, "DataError", "9 tokens leave no room for a text")
    refused(doctor("taks.approach=head", "--json"), 2, "RecipeError", "taks")
    rows = [{"text": f"film {i}", "label": "good" if i % 2 else "bad"} for i in range(60)] + [
        {"text": "", "label": "x"}
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refused(doctor(f"data.source={tmp_path}/x.jsonl", "--json"), 2, "DataError", "x.jsonl:61, column `text`: is empty")


def test_long_rows_many_classes_and_markup(doctor: Any, tmp_path: Path) -> None:
    """The terminal shows begin and end of a long row, some of many classes, and what looks like markup as it is."""
    rows = [{"text": f"[bold]{'long ' * 60}:smile: {i}", "label": f"kind{i % 20}"} for i in range(400)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = doctor(f"data.source={tmp_path}/x.jsonl", "task.instruction=Which?")
    assert done.code == 0, done.err
    assert "20 classes: the commonest" in done.out
    assert "[bold]long" in done.out
    assert ":smile:" in done.out
    assert " tokens … " in done.out
