"""A stored adapter as it is: what it is kept as is what PEFT loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pefttune.store import MANIFEST


def copy_stored(adapter: Path, manifest: dict[str, Any], folder: Path) -> None:
    """Copy the files that the manifest names, and itself, whose digests were checked when it was read."""
    for name in (*manifest["files"], MANIFEST):
        shutil.copyfile(adapter / name, folder / name)
