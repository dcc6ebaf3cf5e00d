"""JSON that a stranger may have written: read whole within a bound, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pefttune.errors import AdapterError

MOST_SHOWN = 160


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
    not, or has a key twice, of which one reader would take the first and another the last."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
    raise ValueError(f"it holds {word}")
