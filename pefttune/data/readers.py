"""Rows out of files, one at a time, so that a file of any size needs little memory."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pefttune.data.config import Format
from pefttune.data.conll import read_conll
from pefttune.data.escapes import WholeCharacters
from pefttune.data.example import Row
from pefttune.data.faults import BadRow, OnBadRow, refuse
from pefttune.data.hints import listed
from pefttune.data.squad import is_article, questions
from pefttune.data.text import fault_in, open_text
from pefttune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

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
JSON_DEPTH = 100
PARQUET_ROWS = 1024  # rows read at once

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


# JSON lines


def _twice(keys: Iterable[str]) -> str:
    return f"{listed(keys)} stands twice in an object"


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # of two values the last would be taken
        keys = [key for key, _ in pairs]
        raise ValueError(_twice(key for key in values if keys.count(key) > 1))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_with_keys_once)


def _jsonl(path: Path, _: Sequence[str] | None) -> _Rows:
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, f"{path.name}:{number}")


def _parsed(line: str, origin: str) -> Row | BadRow:
    if fault := fault_in(line):
        return BadRow(origin, None, fault)
    try:
        value = _DECODER.decode(line)
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return BadRow(origin, None, f"broken JSON at character {error.colno}: {error.msg}")
    except UnicodeEncodeError:
        return BadRow(origin, None, "a `\\u` escape stands for half a character (a lone surrogate)")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
        return BadRow(origin, None, f"JSON that cannot be read: {error}")
    return _object(value, origin)


def _object(value: Any, origin: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(value, origin)
    return BadRow(origin, None, f"not an object with columns, but {json.dumps(value)[:40]}")


# JSON


class _RefusedError(Exception):
    """JSON that the parser takes and this module does not."""


def _json(path: Path, _: Sequence[str] | None) -> _Rows:
    import ijson

    number = 0
    try:
        with path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            whole = WholeCharacters(file, path)
            for number, value in enumerate(_elements(_keys_once(ijson.basic_parse(whole, use_float=True))), 1):
                if is_article(value):
                    yield from questions(value, f"{path.name}:article {number}")
                else:
                    yield _object(value, f"{path.name}:{number}")
        if number == 0:
            raise DataError(
                f"{path} has no rows: give an array of objects, or an object with such an array under `data`"
            )
    except (ijson.JSONError, UnicodeDecodeError, _RefusedError) as error:
        # yajl adds a drawing of the place
        found = None if isinstance(error, _RefusedError) else re.search(r"error: ([^\\\n]+)", str(error))
        raise DataError(
            f"{path}: broken JSON after row {number}: {found[1].rstrip('.') if found else error}. "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe."
        ) from error


def _keys_once(events: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The events, up to a key that an object holds twice."""
    open_objects: list[set[str]] = []
    for event, value in events:
        if event == "start_map":
            open_objects.append(set())
        elif event == "end_map":
            open_objects.pop()
        elif event == "map_key":
            if value in open_objects[-1]:
                raise _RefusedError(_twice([value]))
            open_objects[-1].add(value)
        yield event, value


def _elements(events: Iterator[tuple[str, Any]]) -> Iterator[Any]:
    """The elements of the outermost array, or of the array under `data` in the outermost object.

    `ijson.items` would do, but its memory grows with the square of the depth: a small file of brackets kills the
    process.
    """
    import ijson

    depth = 0  # brackets that are open
    rows_depth: int | None = None  # how many are open between two rows
    key: str | None = None
    builder: Any = None
    for event, value in events:
        if rows_depth is None:
            if event == "map_key" and depth == 1:
                key = value
            if event == "start_array" and (depth == 0 or (depth == 1 and key == "data")):
                rows_depth = depth + 1
        elif event == "end_array" and depth == rows_depth:
            rows_depth = None
        else:
            builder = builder or ijson.ObjectBuilder()
            builder.event(event, value)
        depth += event.startswith("start_") - event.startswith("end_")
        if depth > JSON_DEPTH:
            raise _RefusedError(f"more than {JSON_DEPTH} brackets inside one another")
        if builder is not None and depth == rows_depth:
            yield builder.value
            builder = None


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
    _check_names(path, header)
    blank: list[int] = []  # lines without a character since the last row
    for line, record in records:
        if not record:
            blank.append(line)
            continue
        if len(header) == 1:  # of one column, such a line is a row whose field is empty, but not at the file's end
            yield from (Row({header[0]: ""}, f"{path.name}:{number}") for number in blank)
        blank.clear()
        yield _row(f"{path.name}:{line}", header, record)


def _check_names(path: Path, names: list[str]) -> None:
    if any("\0" in name for name in names):
        raise DataError(f"{path}: a NUL character in a column's name; is this a text file, saved as UTF-8?")
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: more than one column is called {listed(duplicates)}")


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


# Parquet


def _parquet(path: Path, _: Sequence[str] | None) -> _Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in _values(batch):
                    number += 1
                    origin = f"{path.name}:{number}"
                    yield Row(values, origin) if isinstance(values, dict) else BadRow(origin, *values)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: broken Parquet after row {number}: {error}") from error


def _values(batch: pa.RecordBatch) -> list[Any]:
    """Of each row its columns, or the one that cannot be read and why."""
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError):  # so that one value does not take its neighbours with it
        return [_row_values(batch.slice(index, 1)) for index in range(len(batch))]


def _row_values(row: pa.RecordBatch) -> dict[str, Any] | tuple[str, str]:
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            (values[name],) = column.to_pylist()
        except (ValueError, OverflowError) as error:
            return name, f"holds a {column.type} that cannot be read: {error}"
    return values


_READERS: dict[Format, Callable[[Path, Sequence[str] | None], _Rows]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
    "conll": read_conll,
}
