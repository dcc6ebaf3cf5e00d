"""A stored adapter as it is: what it is kept as is what PEFT loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pefttune.store import MANIFEST
from pefttune.store.manifest import SIGNATURE


def copy_stored(adapter: Path, manifest: dict[str, Any], folder: Path) -> None:
    """Copy the files that the manifest names, whose digests were checked when it was read, itself, and a signature."""
    signature = [SIGNATURE] if (adapter / SIGNATURE).is_file() else []
    for name in (*manifest["files"], MANIFEST, *signature):
        shutil.copyfile(adapter / name, folder / name)
