"""`pefttune embed`: rows keep their columns and gain vectors; what cannot be read is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": i, "review": f"film number {i}"}) + "\n" for i in range(5)))
    return path


def test_each_row_keeps_its_columns_and_gains_a_vector(command: Any, tiny: Path, rows: Path) -> None:
    done = command("embed", rows, "--output", "x.parquet", "--base", tiny, "--text-column", "review")
    assert done.code == 0, done.err
    found = pq.read_table("x.parquet").to_pylist()
    assert [row["id"] for row in found] == list(range(5))
    assert {len(row["embedding"]) for row in found} == {32}
    assert len({tuple(row["embedding"]) for row in found}) == 5


def test_tokens_get_a_vector_each(command: Any, tiny: Path, rows: Path) -> None:
    options = ["--base", tiny, "--text-column", "review", "--pooling", "none", "--max-length", "8"]
    assert command("embed", rows, "--output", "x.jsonl", *options).code == 0
    first = json.loads(Path("x.jsonl").read_text().splitlines()[0])
    assert len(first["tokens"]) == len(first["embedding"]) == 8
    assert first["truncated"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "x.csv"], "vectors go into .parquet or .jsonl"),
        (["--output", "folder.jsonl"], "--output folder.jsonl is a folder: name a file"),
        (["--output", "x.xlsx"], "`.iob2`, `.annotated`\n"),
        (
            ["--output", "x.jsonl"],
            "rows.jsonl:1: there is no column 'text', but id, review; name it",
        ),
        (["--output", "x.jsonl", "--text-column", "id"], "rows.jsonl:1: id is int, not text"),
    ],
)
def test_what_cannot_be_read_is_told(command: Any, tiny: Path, rows: Path, options: list[str], message: str) -> None:
    Path("folder.jsonl").mkdir()
    done = command("embed", rows, "--base", tiny, *options)
    assert done.code == 2
    assert message in done.err
    assert not Path("x.jsonl").exists()
