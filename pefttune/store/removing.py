"""Take versions out of the store: never one that is in use, or that an alias names."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pefttune.errors import AdapterError, StorageError
from pefttune.store import record
from pefttune.store.folder import STAGING, names, versions
from pefttune.store.holding import alone

REMOVED = ".removed-"


@dataclass(frozen=True)
class Removed:
    """What was taken away, and its size in bytes."""

    what: str
    nbytes: int


def remove(folder: Path) -> Removed:
    """Remove one version. Raises AdapterError when it is in use or has an alias; it is whole then."""
    home, version = folder.parent, int(folder.name)
    called = f"{home.name}@{version}"
    with alone(folder) as free, record.changing(home) as known:
        if not free:
            raise AdapterError(f"{called} is in use by a process that is running; remove it when that has ended")
        if aliases := [alias for alias, named in known.aliases.items() if named == version]:
            raise AdapterError(
                f"{called} is {home.name}@{aliases[0]}; give that alias to another version first: "
                f"pefttune alias {home.name}@VERSION {aliases[0]}"
            )
        known.last = max(known.last, version)
        gone = _gone(folder)
    return Removed(called, gone)


def tidy(store: Path, keep: int, *, dry: bool) -> Iterator[Removed]:
    """Remove what killed processes left, and of each adapter all versions but the newest `keep`, those in use, and
    those that an alias names. With `dry`, only tell what would go."""
    for leftover in sorted((*store.glob(f"*/{STAGING}*/"), *store.glob(f"*/{REMOVED}*/"))):
        with alone(leftover) as free:
            if free:
                yield Removed(f"{leftover.parent.name}/{leftover.name}", _nbytes(leftover) if dry else _gone(leftover))
    for name in names(store):
        named = record.read(store / name).aliases.values()
        for version in versions(store, name)[:-keep]:
            folder = store / name / str(version)
            if version in named:
                continue
            if not dry:
                with suppress(AdapterError):  # in use, or named meanwhile
                    yield remove(folder)
                continue
            with alone(folder) as free:
                if free:
                    yield Removed(f"{name}@{version}", _nbytes(folder))


def _gone(folder: Path) -> int:
    """Remove a folder, which is no version any more from one moment to the next; its size."""
    nbytes = _nbytes(folder)
    try:
        waiting = Path(tempfile.mkdtemp(dir=folder.parent, prefix=REMOVED))
        folder.rename(waiting / folder.name)
    except OSError as error:
        raise StorageError(f"{folder} cannot be removed: {error.strerror}") from None
    shutil.rmtree(waiting, ignore_errors=True)
    return nbytes


def _nbytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
