"""JSON that a stranger may have written: read whole within a bound, or not at all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pefttune.errors import AdapterError

MOST_SHOWN = 160
MOST_DEEP = 64
"""Far more than pefttune and PEFT write, far less than what a recursive function of Python's could not walk."""
LARGEST = 2**63 - 1


def read_json(path: Path, most_bytes: int, sha256: str | None = None) -> Any:
    """The content of a file. Raises AdapterError for one that is no regular file, larger than that, has not the digest
    given, or is not sound."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise AdapterError(f"{path} cannot be read: {'it is no file' if path.exists() else 'No such file'}")
        with path.open("rb") as file:
            raw = file.read(most_bytes + 1)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > most_bytes:
        raise AdapterError(f"{path} is too large: it may have {most_bytes:,} bytes")
    if sha256 not in (None, hashlib.sha256(raw).hexdigest()):
        raise AdapterError(f"{path} has been changed or damaged: its sha256 is not the one it was saved with")
    try:
        return parse(raw.decode())
    except ValueError as error:
        raise AdapterError(f"{path} is damaged: {error}") from None


def parse(text: str) -> Any:
    """The value that the text is. Raises ValueError also where it is nested too deeply, holds a number that JSON has
    not or a float and 64 bits cannot hold, or half of a character, which no file can; or has a key twice, of which one
    reader would take the first and another the last."""
    try:
        content = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_inside(content)
    return content


def shown(value: object) -> str:
    """What a file says, as a terminal can show it: short, and without what would steer it."""
    text = ascii(value)[1:-1] if isinstance(value, str) else ascii(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("it has a key twice")
    return content


def _no_number(word: str) -> None:
    raise ValueError(f"it holds {shown(word)}")


def _finite(word: str) -> float:
    number = float(word)
    if math.isinf(number):  # 1e999
        _no_number(word)
    return number


def _whole(word: str) -> int:
    number = int(word)
    if abs(number) > LARGEST:
        _no_number(word)
    return number


def _check_inside(content: Any) -> None:
    """Raise ValueError where the value is nested too deeply, or has a text that UTF-8 cannot hold."""
    level = [content]
    for _ in range(MOST_DEEP):
        for text in level:
            if isinstance(text, str):
                text.encode()  # of a lone surrogate, a ValueError
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    return (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
