"""Stored adapters that a new one is made from: merged, fused, or begun with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttune import store
from pefttune.errors import AdapterError
from pefttune.recipe import Recipe, recipe_from_mapping


@dataclass(frozen=True)
class Parent:
    """A stored adapter, its files checked."""

    name: str
    version: int
    folder: Path
    manifest: dict[str, Any]
    recipe: Recipe

    @property
    def called(self) -> str:
        """`name@version`"""
        return f"{self.name}@{self.version}"

    def lineage(self) -> dict[str, Any]:
        """Which adapter it is, for the manifest of the one that is made from it."""
        from pefttune import methods

        sha256 = self.manifest["files"][methods.weights.WEIGHTS]
        return {"name": self.name, "version": self.version, "sha256": sha256}


def read_parent(store_folder: Path, name: str) -> Parent:
    """The stored adapter `name` or `name@version`. Raises AdapterError."""
    folder = store.find(store_folder, name)
    manifest = store.read_manifest(folder)
    recipe = recipe_from_mapping(manifest["recipe"], where=f"{name}/{store.MANIFEST}")
    return Parent(folder.parent.name, int(folder.name), folder, manifest, recipe)


def lineage_of(how: str, parents: Sequence[Parent]) -> dict[str, Any] | None:
    """What the manifest says of an adapter that was trained from these; None where there are none."""
    return {"how": how, "parents": [parent.lineage() for parent in parents]} if parents else None


def check_same_base(parents: Sequence[Parent]) -> None:
    """Raise AdapterError, with what differs, where they were trained on different bases."""
    from pefttune import bases

    first, *others = parents
    ours, *theirs = [bases.Fingerprint(**parent.manifest["base"]["fingerprint"]) for parent in parents]
    for other, fingerprint in zip(others, theirs, strict=True):
        if differences := ours.differences(fingerprint):
            raise AdapterError(
                f"{first.called} and {other.called} were trained on different bases, here that of {first.called}, "
                f"there that of {other.called}. They differ in: {'; '.join(differences)}"
            )
