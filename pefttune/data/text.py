"""Text files that are read line by line, each line of which may hold bytes that are no text."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import IO


def open_text(path: Path, newline: str) -> IO[str]:
    """The file, to be read as UTF-8 with or without a byte order mark; what is not UTF-8 is found by `fault_in`."""
    # It comes through as lone surrogates, so that the row which holds it can be named.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def fault_in(text: str) -> str | None:
    """What is wrong with text of such a file, if anything: a byte that is not UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        return f"byte 0x{byte:02x} at character {error.start + 1} is not UTF-8; save the file as UTF-8"
    return None


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen: there are only spaces, controls and characters without width."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)
