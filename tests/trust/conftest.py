"""A stored adapter that a stranger may spoil, as somebody who can also write its digests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pefttune.store import MANIFEST, write_manifest

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(finished: Any, tmp_path: Path) -> Path:
    """A copy of a trained adapter."""
    return Path(shutil.copytree(finished().run.folder, tmp_path / "adapters" / "tiny" / "1"))


@pytest.fixture(scope="session")
def sealed() -> Callable[..., None]:
    """`sealed(folder, edit)`: the manifest with a change, and with the digests of the files as they now are."""

    def seal(folder: Path, edit: Edit = lambda manifest: None) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        edit(manifest)
        write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})

    return seal


@pytest.fixture(scope="session")
def put() -> Callable[[Any, tuple[Any, ...], Any], None]:
    """`put(value, path, new)`: another value at that place inside; `...` takes it away."""

    def change(value: Any, path: tuple[Any, ...], new: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        if new is ...:
            del value[path[-1]]
        else:
            value[path[-1]] = new

    return change
