"""A copy of a stored adapter for what judges files and then reads them again: nobody else writes to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pefttune.errors import PefttuneError, StorageError
from pefttune.store.holding import Hold
from pefttune.store.manifest import MANIFEST, SIGNATURE, read_manifest


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A version of the store, with its signature if it has one, as the same version of a store of its own, until the
    block ends. Raises AdapterError where a file is not as its manifest says, StorageError where there is no room."""
    with ExitStack() as opened:
        hold = Hold(folder)  # or another process could remove the version meanwhile
        try:
            files = read_manifest(folder)["files"]
            scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="pefttune-"))
            copy = Path(scratch) / folder.parent.name / folder.name
            copy.mkdir(parents=True)
            for name in (MANIFEST, *files, *([SIGNATURE] if (folder / SIGNATURE).is_file() else [])):
                shutil.copyfile(folder / name, copy / name)
        except OSError as error:
            raise StorageError(f"{folder} could not be copied to be read: {error.strerror or error}") from None
        finally:
            hold.release()
        try:
            read_manifest(copy)  # what was copied is what counts
            yield copy
        except PefttuneError as error:  # who reads it looks for the version, and not for a folder that is gone by then
            raise type(error)(str(error).replace(str(copy), str(folder))) from None
