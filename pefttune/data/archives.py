"""One named file out of an archive."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pefttune.data.storage import replacing
from pefttune.errors import FetchError


def extract_member(archive: Path, member: str, target: Path) -> None:
    """Write the regular file `member` of a zip (wheel) or tar archive to `target`, streaming and atomically.

    `member` is only looked up, never made into a path, and links are not followed. Raises FetchError when the archive
    is damaged or has no such file, StorageError when `target` cannot be written.
    """
    try:
        with _opened(archive, member) as source, replacing(target) as file:
            shutil.copyfileobj(source, file, length=1 << 20)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged: {error}. Delete {archive} and try again.") from error


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    missing = FetchError(f"{archive.name} holds no file `{member}`")
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            if member not in bundle.namelist() or member.endswith("/"):
                raise missing
            with bundle.open(member) as source:
                yield source
        return
    with tarfile.open(archive) as tape:
        entry = next((entry for entry in tape if entry.name == member and entry.isreg()), None)
        source_or_none = tape.extractfile(entry) if entry is not None else None
        if source_or_none is None:
            raise missing
        with source_or_none as source:
            yield source
