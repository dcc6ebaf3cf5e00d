"""Escapes of JSON that stand for half a character, which the parser of whole files would read as `?`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from pefttune.errors import DataError

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_WHOLE = re.compile(rb"(?:[^\\]++|\\u[dD][89abAB]..\\u[dD][c-fC-F]|\\(?!u[dD][89a-fA-F]).?)*+", re.DOTALL)
_UNFINISHED = re.compile(
    rb"(?<!\\)(?:\\\\)*(\\(?:u(?:[dD][89abAB]..(?:\\(?:u.{0,3})?)?|.{0,3}))?)\Z", re.DOTALL
)  # at the end of a piece, where of a run of backslashes only an odd last one begins an escape
_LONGEST = 11  # bytes of an unfinished escape: a whole one, of two halves, has 12


class WholeCharacters:
    """The rest of a JSON file, to be read in pieces. Raises DataError at a half of a character without the other."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.unfinished = b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, up to an escape that they would cut, with the one that was cut before."""
        read = self.file.read(size)
        piece = self.unfinished + read
        begin = self.file.tell() - len(piece)
        self.unfinished = b""
        run = len(piece[:-_LONGEST].rstrip(b"\\"))  # where the backslashes begin that may go on in the last bytes
        if len(read) == size and (cut := _UNFINISHED.search(piece, run)):
            piece, self.unfinished = piece[: cut.start(1)], cut[1]
        if _HALF.search(piece) and (whole := _WHOLE.match(piece)) and whole.end() < len(piece):
            raise DataError(
                f"{self.path}: the `\\u` escape at byte {begin + whole.end() + 1} stands for half a character "
                "(a lone surrogate)"
            )
        return piece
