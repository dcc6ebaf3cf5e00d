"""Is a stored adapter still the one that was trained, on this machine and with these libraries?"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import store

if TYPE_CHECKING:
    from pefttune.evaluation import Verdict


@dataclass(frozen=True)
class Verification:
    """The verdict on a stored adapter, its folder, and the versions (there, here) of what has changed since."""

    folder: Path
    verdict: Verdict
    versions: dict[str, tuple[str, str]]


def verify(name: str, store_folder: Path | str = "adapters", base_source: str | None = None) -> Verification:
    """Check an adapter's files and its base, and score its probe rows again.

    Raises AdapterError where a file was changed, added or lost, or the base is another one; BaseError.
    """
    folder = store.find(Path(store_folder), name)
    manifest = store.read_manifest(folder)

    from pefttune import evaluation
    from pefttune.inference import open_session

    session = open_session(name, store_folder, base_source)
    return Verification(folder, evaluation.replay(session, name, manifest), _changed(manifest))


def _changed(manifest: dict[str, Any]) -> dict[str, tuple[str, str]]:
    told = {name: (version, _version(name)) for name, version in manifest["versions"].items()}
    return {name: (there, here) for name, (there, here) in told.items() if there != here}


def _version(name: str) -> str:
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
        return "none"
