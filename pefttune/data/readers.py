"""Rows out of files, one at a time, so that a file of any size needs little memory."""

from __future__ import annotations

import csv
import difflib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from pefttune.data.config import Format
from pefttune.data.conll import read_conll
from pefttune.data.example import Row
from pefttune.data.faults import BadRow, OnBadRow, check_names, refuse
from pefttune.data.hints import listed
from pefttune.data.json_files import read_json, read_jsonl
from pefttune.data.parquet import read_parquet
from pefttune.data.text import fault_in, open_text
from pefttune.errors import DataError

ENDINGS: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".annotated": "conll",
}
FIELD_CHARACTERS = 1 << 24  # longest CSV field: an unclosed quote must not read a whole file into one field

_Rows = Iterator[Row | BadRow]


def read_rows(
    path: Path,
    *,
    format: Format = "auto",
    column_names: Sequence[str] | None = None,
    on_bad_row: OnBadRow = refuse,
) -> Iterator[Row]:
    """The rows of a file; `origin` is its name with the line (text formats) or row number (JSON, Parquet), from 1.

    A JSON file is an array of objects, or an object with such an array under `data`; of SQuAD's articles each question
    is a row. CSV is quoted, TSV is not; both have a header line unless `column_names` are given. In a CoNLL file each
    sentence is a row, with `tokens` and `tags`. A row that cannot be read goes to `on_bad_row`, which by default
    raises. Raises DataError at once for a file that is not there, empty or of unknown format; the iterator raises it
    for a header, or a file as a whole, that is broken and for a file without rows.
    """
    known = format_of(path) if format == "auto" else format
    if column_names is not None and known not in ("csv", "tsv"):
        raise DataError(f"{path}: `column_names` are for CSV and TSV files; this one is read as {known}")
    _check_file(path)
    return _good_rows(path, _READERS[known](path, column_names), on_bad_row)


def format_of(path: Path) -> Format:
    """The format that the file's ending stands for. Raises DataError when it stands for none."""
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        ending = f"the ending `{path.suffix}` is not known" if path.suffix else "the name has no ending"
        raise DataError(f"{path}: {ending}: use one of {listed(ENDINGS)}") from None


def _check_file(path: Path) -> None:
    if os.path.isdir(path):  # of os.path, which takes a name too long for a file as one that is not there
        raise DataError(f"{path} is a folder: name a file")
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(f"{path} is a link that leads to no file")
    if not os.path.exists(path):
        raise DataError(f"{path} does not exist.{_neighbours(path)}")
    if not os.path.isfile(path):
        raise DataError(f"{path} is no file, but a pipe or a device: write what it gives into a file, and name that")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")


def _neighbours(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f" There is no folder {path.parent}."
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent))
    except PermissionError:
        return ""
    return f" In that folder there is {listed(close)}." if close else ""


def _good_rows(path: Path, rows: _Rows, on_bad_row: OnBadRow) -> Iterator[Row]:
    empty = True
    try:
        for row in rows:
            empty = False
            if isinstance(row, BadRow):
                on_bad_row(row)
            else:
                yield row
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if empty:
        raise DataError(f"{path} has no rows")


# CSV and TSV

_Record = tuple[int, list[str] | str]  # line, and the fields (none in a blank line) or what is wrong


def _csv(path: Path, column_names: Sequence[str] | None) -> _Rows:
    with open_text(path, newline="") as file:
        yield from _table(path, _csv_records(path, file), column_names)


def _csv_records(path: Path, file: IO[str]) -> Iterator[_Record]:
    csv.field_size_limit(FIELD_CHARACTERS)  # the module's own limit is 128 KiB, less than a long document
    two: deque[str] = deque(["", ""], maxlen=2)  # the last lines

    def lines() -> Iterator[str]:
        for line in file:
            two.append(line)
            yield line

    reader = csv.reader(lines(), strict=True)
    while True:
        line = reader.line_num + 1  # of the row's first line: a quoted field may hold line breaks
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > line:  # rows may be among these lines: as one broken row they would vanish uncounted
                raise DataError(
                    f"{path}: broken CSV from line {line} to line {reader.line_num}: {error}. A quote opens there and "
                    'is not closed as it should be; inside of a quoted field a quote is doubled (""). Mend the quotes.'
                ) from error
            yield line, f"broken CSV: {error}"
        else:
            if fields or two[1] != "\r\n" or not two[0].endswith("\r"):  # a line end of CR CR LF looks like two
                yield line, fields


def _tsv(path: Path, column_names: Sequence[str] | None) -> _Rows:
    with open_text(path, newline="\n") as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1))
        yield from _table(path, ((number, line.split("\t") if line else []) for number, line in lines), column_names)


def _table(path: Path, records: Iterator[_Record], column_names: Sequence[str] | None) -> _Rows:
    header = list(column_names) if column_names is not None else _header(path, records)
    check_names(path, header)
    blank: list[int] = []  # lines without a character since the last row
    for line, record in records:
        if not record:
            blank.append(line)
            continue
        if len(header) == 1:  # of one column, such a line is a row whose field is empty, but not at the file's end
            yield from (Row({header[0]: ""}, f"{path.name}:{number}") for number in blank)
        blank.clear()
        yield _row(f"{path.name}:{line}", header, record)


def _header(path: Path, records: Iterator[_Record]) -> list[str]:
    line, record = next((each for each in records if each[1]), (1, []))
    fault = record if isinstance(record, str) else fault_in("".join(record))
    if fault:
        raise DataError(f"{path.name}:{line}: {fault}")
    return list(record)


def _row(origin: str, header: list[str], record: list[str] | str) -> Row | BadRow:
    if isinstance(record, str):
        return BadRow(origin, None, record)
    if record == header:
        return BadRow(origin, None, "a header line, not a row (with `data.column_names` the file must have none)")
    if len(record) != len(header):
        return BadRow(origin, None, f"{len(record)} fields, where the columns are {len(header)}: {listed(header)}")
    for column, field in zip(header, record, strict=True):
        if fault := fault_in(field):
            return BadRow(origin, column, fault)
    return Row(dict(zip(header, record, strict=True)), origin)


_READERS: dict[Format, Callable[[Path, Sequence[str] | None], _Rows]] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": read_parquet,
    "conll": read_conll,
}
