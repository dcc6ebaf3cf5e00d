"""Rows into files, one at a time; a file appears whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from pefttune.data.config import Format
from pefttune.data.content import plain
from pefttune.data.parquet import write_parquet
from pefttune.data.readers import format_of
from pefttune.data.storage import replacing, spooled
from pefttune.errors import DataError

_Values = Mapping[str, Any]


def write_rows(path: Path, rows: Iterable[_Values]) -> None:
    """Write rows as JSON lines, JSON, CSV, TSV or Parquet, by the file's ending.

    In CSV and TSV a null is an empty field and any other value but a string is JSON, in which a date is text. Raises
    DataError for an unknown ending, for CoNLL, which is only read, and for a row that the format cannot hold,
    StorageError when the file cannot be written; what stood at `path` before is then still there.
    """
    write = _WRITERS[format_to_write(path)]
    with replacing(path) as file:
        write(file, iter(rows), path)


def format_to_write(path: Path) -> Format:
    """The format that the file's ending stands for. Raises DataError when it stands for none, or for one only read."""
    format = format_of(path)
    if format not in _WRITERS:
        raise DataError(f"{path}: files with the ending `{path.suffix}` are only read: write JSONL or another format")
    return format


def _json_of(value: Any) -> str:
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False, default=plain)


def _jsonl(file: BinaryIO, rows: Iterator[_Values], _: Path) -> None:
    for row in rows:
        file.write(f"{_json_of(row)}\n".encode())


def _json(file: BinaryIO, rows: Iterator[_Values], _: Path) -> None:
    before = "[\n"
    for row in rows:
        file.write(f"{before}{_json_of(row)}".encode())
        before = ",\n"
    file.write(b"\n]\n" if before == ",\n" else b"[]\n")


def _cells(row: _Values) -> list[str]:
    return [value if isinstance(value, str) else "" if value is None else _json_of(value) for value in row.values()]


def _csv(file: BinaryIO, rows: Iterator[_Values], _: Path) -> None:
    # The line ending stays "\r\n": Python 3.11 quotes no bare "\r" otherwise.
    writer = csv.writer(SimpleNamespace(write=lambda text: file.write(text.encode())))
    for number, row in enumerate(_alike(rows)):
        if number == 0:
            writer.writerow(row)
        writer.writerow(_cells(row))


def _tsv(file: BinaryIO, rows: Iterator[_Values], _: Path) -> None:
    for number, row in enumerate(_alike(rows)):
        if number == 0:
            file.write(_tsv_line(number, list(row)))
        file.write(_tsv_line(number + 1, _cells(row)))


def _tsv_line(number: int, cells: list[str]) -> bytes:
    line = "\t".join(cells)
    if not line:
        raise DataError(f"Row {number} is one empty field, which in TSV is no row: write CSV or JSONL")
    if line.count("\t") != len(cells) - 1 or "\n" in line or "\r" in line:
        raise DataError(f"Row {number} has a tab or a line break in a field, which TSV cannot hold: write CSV or JSONL")
    return f"{line}\n".encode()


def _parquet(file: BinaryIO, rows: Iterator[_Values], path: Path) -> None:
    with spooled(path) as spool:
        write_parquet(file, _alike(rows), spool)


def _alike(rows: Iterator[_Values]) -> Iterator[dict[str, Any]]:
    first = next(rows, None)
    if first is None:
        return
    for number, row in enumerate(chain([first], rows), 1):
        if row.keys() != first.keys():
            raise DataError(
                f"Row {number} has the columns {list(row)}, the first one {list(first)}: write JSONL instead"
            )
        yield {column: row[column] for column in first}


_WRITERS: dict[Format, Callable[[BinaryIO, Iterator[_Values], Path], None]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}
