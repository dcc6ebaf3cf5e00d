"""Stored adapters that a new one is made from: merged, or begun with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttune import store
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
