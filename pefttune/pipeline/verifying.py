"""Is a stored adapter still the one that was trained, on this machine and with these libraries?"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import store

if TYPE_CHECKING:
    from pefttune.bases import Mismatch
    from pefttune.evaluation import Verdict


@dataclass(frozen=True)
class Verification:
    """The verdict on a stored adapter, its folder, the versions (there, here) of what has changed since, and how the
    base differs from the one that it was trained on, where it may."""

    folder: Path
    verdict: Verdict
    versions: dict[str, tuple[str, str]]
    base_mismatch: Mismatch


def verify(
    name: str,
    store_folder: Path | str = "adapters",
    base_source: str | None = None,
    may_differ: Collection[str] = (),
) -> Verification:
    """Check an adapter's files and its base, but for fields of its fingerprint that `may_differ`, and score its probe
    rows again.

    Raises AdapterError where a file was changed, added or lost, or the base is another one; BaseError.
    """
    folder = store.find(Path(store_folder), name)
    manifest = store.read_manifest(folder)

    from pefttune import evaluation
    from pefttune.inference import open_session

    session = open_session(name, store_folder, base_source, may_differ=may_differ)
    verdict = evaluation.replay(session, name, manifest)
    return Verification(folder, verdict, _changed(manifest), session.base_mismatch(name))


def verify_signed(
    name: str,
    key: Path,
    store_folder: Path | str = "adapters",
    base_source: str | None = None,
    may_differ: Collection[str] = (),
) -> Verification:
    """As `verify`, of an adapter that the owner of this public key has signed. What was signed is what is scored, also
    where somebody writes to the store meanwhile. Raises InputError for a key that cannot be used, too."""
    folder = store.find(Path(store_folder), name)

    from pefttune import publishing

    with store.copied(folder) as copy:
        publishing.check_signature(copy, key)
        found = verify(f"{folder.parent.name}@{folder.name}", copy.parent.parent, base_source, may_differ)
    return replace(found, folder=folder)


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
