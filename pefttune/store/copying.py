"""A copy of a stored adapter for what judges files and then reads them again: nobody else writes to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pefttune.errors import StorageError
from pefttune.store.holding import Hold
from pefttune.store.manifest import MANIFEST, SIGNATURE, read_manifest


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A version of the store, with its signature if it has one, as the same version of a store of its own, until the
    block ends. Raises AdapterError where a file is not as its manifest says, StorageError where there is no room."""
    with tempfile.TemporaryDirectory(prefix="pefttune-") as scratch:
        copy = Path(scratch) / folder.parent.name / folder.name
        hold = Hold(folder)  # or another process could remove the version meanwhile
        files = read_manifest(folder)["files"]
        signature = [SIGNATURE] if (folder / SIGNATURE).is_file() else []
        try:
            copy.mkdir(parents=True)
            for name in (MANIFEST, *files, *signature):
                shutil.copyfile(folder / name, copy / name)
        except OSError as error:
            raise StorageError(f"{folder} could not be copied to {scratch}: {error.strerror or error}") from None
        hold.release()
        read_manifest(copy)  # what was copied is what counts
        yield copy
