"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pefttune.errors import StorageError


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StorageError about `target`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{target} could not be written: {reason}. What stood there is untouched.") from error


class _Output(io.FileIO):
    """A file whose own failures are StorageErrors, so that those of whoever makes the rows keep their names."""

    def __init__(self, target: Path, mode: Literal["xb", "x+b"]) -> None:
        self.target = target
        self.path = target.parent / f".{secrets.token_hex(8)}.part"
        super().__init__(self.path, mode)

    def write(self, data: Any, /) -> int:
        with storage_errors(self.target):
            return super().write(data)


def _refuse_other_than_a_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if os.path.lexists(path) and not path.is_file():
        raise OSError(errno.EINVAL, "it is a device, a pipe or another thing that is no file")


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` when the block ends well and vanishes when it does not.

    Folders are made, and a link is followed. Raises StorageError when it cannot be written, or something stands there
    that is no file; `target` is then what it was.
    """
    with storage_errors(target):
        if target.is_symlink():
            target = Path(os.path.realpath(target))
        _refuse_other_than_a_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        raw = _Output(target, "xb")
    try:
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            with storage_errors(target):
                os.fsync(file.fileno())
        with storage_errors(target):
            raw.path.replace(target)
    except BaseException:
        raw.path.unlink(missing_ok=True)
        raise


@contextmanager
def spooled(target: Path) -> Iterator[BinaryIO]:
    """A file beside `target` to write and then to read, which vanishes with the block.

    Raises StorageError, about `target`, when it cannot be written.
    """
    with storage_errors(target):
        raw = _Output(target, "x+b")
        raw.path.unlink()  # without a name it is gone when it is closed, whatever happens
    with io.BufferedRandom(raw) as file:
        yield file
