"""Wrong arguments, inputs and outputs of `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pefttune.cli.predicted import check_file
from pefttune.errors import DataError


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], 'give texts (pefttune predict NAME "text") or a file (--input FILE), one of them'),
        (["text", "--input", "x.jsonl"], "one of them"),
        (["text", "--output", "y.csv"], "--output goes with --input"),
        (["text", "--text-column", "body"], "--text-column goes with --input"),
        (["--input", "x.jsonl", "--output", "y.csv"], "two places for the same result"),
        (["\udcff"], "text 1 is not UTF-8"),
    ],
)
def test_predict_arguments(
    refused: Any, command: Any, shop: Any, known_bases: Path, arguments: list[str], told: str
) -> None:
    refused(command("predict", "tiny", *arguments, "--store", shop.store, "--json"), 2, "InputError", told)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text(refused: Any, command: Any, shop: Any, known_bases: Path, text: str) -> None:
    done = command("predict", "tiny", "fine", text, "--store", shop.store, "--json")
    refused(done, 2, "DataError", "text 2: text is empty")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.csv", None, "none.csv does not exist."),
        ("x.txt", "fine", "the ending `.txt` is not known"),
        ("x.csv", "", "x.csv is empty"),
        ("x.csv", "body,id\nfine,1\n", "x.csv:2: there is no column 'text', but body, id; name it with --text-column"),
        (
            "x.csv",
            "text;id\nfine;1\n",
            "but text;id; name it with --text-column. If that is more than one column, part",
        ),
        ("x.csv", "text,id\nfine,1\n,2\n", "x.csv:3: text is empty"),
        ("x.jsonl", '{"text": "a"}\n{"text": null}\n', "x.jsonl:2: text is NoneType, not text"),
        ("x.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "x.jsonl:2: there is no column 'text', but txt"),
        ("x.jsonl", '{"text": "a"}\n{"text": \n', "x.jsonl:2: broken JSON"),
        ("x.csv", "text,prediction\nfine,1\n", "x.csv:2: the column 'prediction' would be overwritten; rename it"),
    ],
)
def test_predict_input(
    refused: Any, command: Any, shop: Any, known_bases: Path, tmp_path: Path, name: str, content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    done = command("predict", "tiny", "--input", name, "--store", shop.store, "--json")
    refused(done, 2, "DataError", told)


@pytest.mark.parametrize(
    ("output", "told", "code"),
    [
        ("out.txt", "the ending `.txt` is not known", 2),
        ("out.tsv", "which TSV cannot hold", 2),
        ("folder.csv", "is a folder: name a file", 2),
        ("x.jsonl/out.csv", "out.csv could not be written: ", 1),
    ],
)
def test_predict_output(
    command: Any, shop: Any, known_bases: Path, tmp_path: Path, output: str, told: str, code: int
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.jsonl").write_text('{"text": "a\\tb"}\n')
    before = set(tmp_path.iterdir())
    done = command("predict", "tiny", "--input", "x.jsonl", "--output", output, "--store", shop.store)
    assert (done.code, done.out, told in done.err) == (code, "", True)
    assert set(tmp_path.iterdir()) == before


def test_a_format_that_is_only_read_is_told_before_a_base_is_read() -> None:
    with pytest.raises(DataError, match=r"^out\.conll: files with the ending `\.conll` are only read"):
        check_file(Path("out.conll"))
