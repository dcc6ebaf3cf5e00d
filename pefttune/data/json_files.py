"""Rows out of JSON: a file of lines, or one array read piece by piece. Nothing that the parsers would take or mend
without a word is taken: keys that stand twice, half characters, brackets without end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pefttune.data.escapes import WholeCharacters
from pefttune.data.example import Row
from pefttune.data.faults import BadRow
from pefttune.data.hints import listed
from pefttune.data.squad import is_article, questions
from pefttune.data.text import fault_in, open_text
from pefttune.errors import DataError

JSON_DEPTH = 100


def _twice(keys: Iterable[str]) -> str:
    return f"{listed(keys)} stands twice in an object"


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # of two values the last would be taken
        keys = [key for key, _ in pairs]
        raise ValueError(_twice(key for key in values if keys.count(key) > 1))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_with_keys_once)


def read_jsonl(path: Path, _: Sequence[str] | None) -> Iterator[Row | BadRow]:
    """A row of each line."""
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


class _RefusedError(Exception):
    """JSON that the parser takes and this module does not."""


def read_json(path: Path, _: Sequence[str] | None) -> Iterator[Row | BadRow]:
    """A row of each element of an array, or of the array under `data`; of SQuAD's articles of each question."""
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
