"""`pefttune predict`: texts and files, and where predictions go."""

from __future__ import annotations

import csv
import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

LABELS = {"good", "bad"}
ROWS = [
    {"id": 1, "text": "a fine film", "note": "ünïcode"},
    {"id": 2, "text": "dull, and :smile: [bold]not[/] 100 %", "note": ""},
    {"id": 3, "text": 'she said "no"', "note": "x"},
]
FORMATS = ["jsonl", "json", "csv", "tsv", "parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format of the file's ending, by other code than the one under test."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            quoted = {"delimiter": ","} if path.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
            writer = csv.DictWriter(file, list(rows[0]), **quoted, quotechar=None if path.suffix == ".tsv" else '"')
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_texts(command: Any, shop: Any, known_bases: Path) -> None:
    texts = [row["text"] for row in ROWS]
    done = command("predict", "tiny", *texts, "--store", shop.store)
    assert done.code == 0, done.err
    for line, text in zip(done.out.splitlines(), texts, strict=True):
        label, confidence, rest = line.split(maxsplit=2)
        assert label in LABELS
        assert 0.5 <= float(confidence) <= 1
        assert rest == text
    document = command("predict", "tiny@1", *texts, "--store", shop.store, "--json").document
    assert document["name"] == "tiny@1"
    assert [each["text"] for each in document["predictions"]] == texts
    assert {tuple(each) for each in document["predictions"]} == {("text", "prediction", "confidence", "truncated")}


def test_a_text_that_is_too_long_says_so(command: Any, shop: Any, known_bases: Path) -> None:
    long = "dull " * 200
    done = command("predict", "tiny", long, "fine", "--store", shop.store)
    assert [line.endswith("(too long: its end was not read)") for line in done.out.splitlines()] == [True, False]
    document = command("predict", "tiny", long, "fine", "--store", shop.store, "--json").document
    assert [each["truncated"] for each in document["predictions"]] == [True, False]


@pytest.mark.parametrize(("source", "target"), list(zip(FORMATS, [*FORMATS[1:], FORMATS[0]], strict=True)))
def test_files(command: Any, shop: Any, known_bases: Path, tmp_path: Path, source: str, target: str) -> None:
    given, written = write(tmp_path / f"in.{source}", ROWS), tmp_path / "new" / f"out.{target}"
    done = command("predict", "tiny", "--input", given, "--output", written, "--store", shop.store)
    assert (done.code, done.out) == (0, ""), done.err
    assert f"written: {written}" in done.err
    rows = read(written)
    assert [list(row) for row in rows] == [["id", "text", "note", "prediction", "confidence", "truncated"]] * 3
    assert [{key: str(row[key]) for key in ROWS[0]} for row in rows] == [
        {key: str(value) for key, value in row.items()} for row in ROWS
    ]
    assert {row["prediction"] for row in rows} <= LABELS
    assert all(0.5 <= float(row["confidence"]) <= 1 for row in rows)
    assert {str(row["truncated"]).lower() for row in rows} == {"false"}
    assert os.listdir(written.parent) == [written.name]


def test_a_page(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    """Every row once, as text whatever it holds; a row that fails leaves what stood there."""
    given = write(tmp_path / "in.jsonl", [{"text": "<b>fine</b> & dull"}, {"text": "a warm film"}])
    page = tmp_path / "out.html"
    assert command("predict", "tiny", "--input", given, "--output", page, "--store", shop.store).code == 0
    told = page.read_text()
    assert (told[:15], told.rstrip()[-7:]) == ("<!DOCTYPE html>", "</html>")
    assert [told.count(text) for text in ("&lt;b&gt;fine&lt;/b&gt; &amp; dull", "a warm film", "<li>")] == [1, 1, 2]
    assert [f"in.jsonl:{number}" in told for number in (1, 2, 3)] == [True, True, False]
    given.write_text('{"text": "fine"}\n{"text": " "}\n')
    assert command("predict", "tiny", "--input", given, "--output", page, "--store", shop.store).code == 2
    assert page.read_text() == told


def test_without_output_rows_are_lines_of_json(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.csv", ROWS)
    done = command("predict", "tiny", "--input", given, "--store", shop.store)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert command("predict", "tiny", "--input", given, "--store", shop.store, "--json").document == {
        "name": "tiny",
        "base_mismatch": {},
        "predictions": rows,
    }


def test_rows_are_streamed(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    """A fault in row 601 is met when hundreds of rows are already out; an output file appears whole or not at all."""
    given = write(tmp_path / "in.jsonl", [{"text": f"a film {number}"} for number in range(600)])
    with given.open("a") as file:
        file.write('{"text": " "}\n')
    done = command("predict", "tiny", "--input", given, "--store", shop.store)
    assert done.code == 2
    assert done.err == "error: in.jsonl:601: text is empty\n"
    lines = done.out.splitlines()
    assert len(lines) >= 500
    assert [json.loads(line)["text"] for line in lines] == [f"a film {number}" for number in range(len(lines))]
    written = tmp_path / "out.csv"
    written.write_text("old")
    failed = command("predict", "tiny", "--input", given, "--output", written, "--store", shop.store)
    assert (failed.code, written.read_text()) == (2, "old")
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".jsonl", ".csv"}


def test_dates_of_a_parquet_file(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    day = datetime.datetime(2024, 2, 29, 12, 30)
    given = write(tmp_path / "in.parquet", [{"text": "fine", "day": day, "raw": b"\x01\xff"}])
    arguments = ["predict", "tiny", "--input", given, "--store", shop.store]
    plain = {"text": "fine", "day": "2024-02-29 12:30:00", "raw": "01ff"}
    assert plain.items() <= json.loads(command(*arguments).out).items()
    assert plain.items() <= command(*arguments, "--json").document["predictions"][0].items()
    for ending in ("jsonl", "parquet"):
        written = tmp_path / f"out.{ending}"
        assert command(*arguments, "--output", written).code == 0
        assert (plain if ending == "jsonl" else {"day": day, "raw": b"\x01\xff"}).items() <= read(written)[0].items()


def test_text_column(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", [{"body": "fine", "id": 1}])
    done = command("predict", "tiny", "--input", given, "--text-column", "body", "--store", shop.store)
    assert json.loads(done.out).items() >= {"body": "fine", "id": 1, "truncated": False}.items()


def test_the_recipe_names_the_text_column(
    command: Any, train: Any, shop: Any, tmp_path: Path, known_bases: Path
) -> None:
    rows = [json.loads(line) for line in shop.reviews.read_text().splitlines()]
    write(tmp_path / "other.csv", [{"body": row["text"], "stars": row["label"]} for row in rows])
    changes = [f"data.source={tmp_path}/other.csv", "data.columns={text: body, label: stars}"]
    done = train(*changes, "--json")
    assert done.code == 0, done.err
    given = write(tmp_path / "in.jsonl", [{"body": "fine"}])
    assert json.loads(command("predict", "tiny", "--input", given).out)["body"] == "fine"
    done = command("evaluate", "tiny", "--json")
    assert (done.code, done.document["rows"]) == (0, 16), done.err
