"""Folders of the store that are in use: advisory locks, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pefttune.errors import AdapterError, StorageError


class Hold:
    """A folder that nobody removes until `release` is called, or this object is gone, or this process has ended.

    Where the folder cannot be opened, or its file system knows no locks, nothing is held.
    """

    def __init__(self, folder: Path) -> None:
        """Raises AdapterError when the folder is being removed."""
        self.release: Callable[[], object] = lambda: None
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            self.release = weakref.finalize(self, os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AdapterError(f"{folder} is being removed by another process") from None


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the folder; nobody can, then, until the block ends. Raises StorageError."""
    descriptor = _opened(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Processes that want this go one after another. Raises StorageError."""
    descriptor = _opened(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:  # it is gone, or not ours
        raise StorageError(f"{folder} cannot be opened: {error.strerror}") from None
