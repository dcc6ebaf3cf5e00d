"""An export is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pefttune.data.storage import storage_errors
from pefttune.errors import InputError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well and vanishes when it does not.

    Raises InputError where something is at `target`, StorageError where it cannot be written.
    """
    check_free(target)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".exporting-"))
    try:
        with storage_errors(target):
            staging.chmod(0o755)  # mkdtemp keeps others out
            yield staging
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_free(target: Path) -> None:
    """Raise InputError where something is at `target`."""
    if target.exists() or target.is_symlink():
        raise InputError(f"--output {target} is there already; name a folder that is not, or take that away")
