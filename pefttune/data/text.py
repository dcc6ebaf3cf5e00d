"""Text files that are read line by line, each line of which may hold bytes that are no text."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import IO

from pefttune.errors import DataError

BEGIN = 1 << 16  # bytes in which a line end is looked for


def open_text(path: Path, newline: str) -> IO[str]:
    """The file, to be read as UTF-8 with or without a byte order mark; what is not UTF-8 is found by `fault_in`.

    Raises DataError for one whose lines do not end as `newline` has it.
    """
    if newline == "\n":
        _refuse_returns_alone(path)
    # It comes through as lone surrogates, so that the row which holds it can be named.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _refuse_returns_alone(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(BEGIN).strip()
    if b"\r" in begin and b"\n" not in begin:
        raise DataError(f"{path}: its lines end in CR alone, as on an old Mac: save it with line ends of LF or CR LF")


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
