"""Escapes of JSON that stand for half a character, which the parser of whole files would read as `?`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from pefttune.errors import DataError

_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]|(\\u[dD][89a-fA-F])|\\.", re.DOTALL)
_LONGEST = 12  # bytes of the escape of a whole character, in two halves


class WholeCharacters:
    """The rest of a JSON file, to be read in pieces. Raises DataError at a half of a character without the other."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path

    def read(self, size: int) -> bytes:
        """The next `size` bytes, and some more where an escape would be cut."""
        piece = self.file.read(size)
        while b"\\" in piece[-_LONGEST:] and (more := self.file.read(len(piece))):
            piece += more
        if b"\\u" in piece:
            for escape in _ESCAPE.finditer(piece):
                if escape[1]:
                    place = self.file.tell() - len(piece) + escape.start() + 1
                    raise DataError(
                        f"{self.path}: the `\\u` escape at byte {place} stands for half a character (a lone surrogate)"
                    )
        return piece
