"""Files that are there whole or not at all, in folders that others may write to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes, beside: Path | None = None) -> None:
    """Write the file, or leave it as it was. What waits to take its place lies in the folder `beside`, by default its
    own, under a name that nobody could have put a link at. Raises OSError."""
    descriptor, waiting = tempfile.mkstemp(dir=beside or path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(waiting, 0o644)  # mkstemp keeps others out; an adapter is as readable as any file
        os.replace(waiting, path)
    except BaseException:
        os.unlink(waiting)
        raise
