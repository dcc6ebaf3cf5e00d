"""The store: `<store>/<name>/<version>/`, versions 1, 2, 3, …; a folder is there whole or not at all."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pefttune.errors import AdapterError, StorageError
from pefttune.store import record
from pefttune.store.holding import Hold
from pefttune.store.manifest import MANIFEST
from pefttune.store.naming import NAME, check_name

STAGING = ".staging-"


def names(store: Path) -> list[str]:
    """Names of all adapters in the store, sorted; also of those that may not be looked into. Raises AdapterError for a
    store that may not."""
    with _reading(store):
        if not store.is_dir():
            return []
        return sorted(p.name for p in store.iterdir() if NAME.fullmatch(p.name) and _may_have_versions(p))


def _may_have_versions(folder: Path) -> bool:
    try:
        return bool(versions(folder.parent, folder.name))
    except AdapterError:
        return True


def versions(store: Path, name: str) -> list[int]:
    """Complete versions of an adapter, oldest first. Raises AdapterError where its folder may not be looked into."""
    folder = store / name
    with _reading(folder):
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(p.name) for p in found if p.name.isdecimal() and (p / MANIFEST).is_file())


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AdapterError(f"{folder} cannot be read: {error.strerror}") from None


def find(store: Path, name: str) -> Path:
    """The folder of `name` (its newest version), `name@version` or `name@alias`. Raises AdapterError with the names
    there are."""
    plain, at, version = name.partition("@")
    check_name(plain)
    present = versions(store, plain)
    if not present:
        known = names(store)
        close = difflib.get_close_matches(plain, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it holds {', '.join(known) or 'none'}"
        raise AdapterError(f"no adapter {plain!r} in the store {store}{hint}")
    if not at:
        return store / plain / str(present[-1])
    aliases = record.read(store / plain).aliases
    wanted = str(aliases.get(version, version))
    if wanted not in map(str, present):
        raise AdapterError(f"{plain} has no version {version!r}; it has {', '.join((*map(str, present), *aliases))}")
    return store / plain / wanted


def alias(folder: Path, name: str) -> None:
    """Let `name@alias` mean this version, whatever it meant before. Raises AdapterError for a name that could be a
    version's."""
    if check_name(name).isdecimal():
        raise AdapterError(f"{name!r} cannot be an alias: it would look like a version; take a word such as 'best'")
    with record.changing(folder.parent) as known:
        known.aliases[name] = int(folder.name)


@contextmanager
def staged(store: Path, name: str) -> Iterator[Path]:
    """A temporary folder beside the versions of `name`; the block fills it and then calls `commit` on it.

    Left without a commit it is removed, and what was stored before is untouched. A write that fails for want of room
    or rights becomes a StorageError that says so.
    """
    check_name(name)
    home = store / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=home, prefix=STAGING))
        staging.chmod(0o755)  # mkdtemp keeps others out; an adapter is as readable as any file
    except OSError as error:
        raise StorageError(f"the store {home} cannot be written to: {error.strerror}") from None
    hold = Hold(staging)  # or another process would take it for what a killed one left
    try:
        yield staging
    except OSError as error:
        raise StorageError(
            f"the adapter could not be saved in {home}: {error.strerror or error}; earlier versions are untouched"
        ) from None
    finally:
        hold.release()
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # it holds versions, or another process has just begun one
            home.rmdir()


def commit(staging: Path) -> Path:
    """Make a staged folder the next version: flushed to disk, then renamed. Safe beside other processes."""
    for path in (*staging.rglob("*"), staging):
        _flush(path)
    home = staging.parent
    version = max((record.read(home).last, *versions(home.parent, home.name))) + 1
    while True:
        try:
            os.rename(staging, home / str(version))  # fails when another process took this version meanwhile
            break
        except OSError:
            if not (home / str(version)).exists():
                raise
            version += 1
    _flush(home)
    return home / str(version)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
