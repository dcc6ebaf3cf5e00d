"""Nothing that is published may hold a path of the machine it was made on."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from pefttune.bases import BASES
from pefttune.data import CATALOGUE

PATHS = {"base": ("source",), "data": ("source", "train", "validation", "test"), "output": ("store", "runs")}


def portable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The resolved recipe with every local path cut to its last part. Catalogue names and Hub ids stay."""
    return {
        section: {key: last_part(value) if key in PATHS.get(section, ()) else value for key, value in content.items()}
        if isinstance(content, dict)
        else content
        for section, content in recipe.items()
    }


def last_part(value: str | None) -> str | None:
    """A local path without its folders; catalogue names and Hub ids as they are."""
    if value is None or value in BASES or value in CATALOGUE:
        return value
    path = PurePath(value)
    is_hub_id = len(path.parts) == 2 and not path.suffix and not value.startswith((".", "/", "~"))
    return value if is_hub_id else path.name
