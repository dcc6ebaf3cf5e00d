"""Nothing that is published may hold a path of the machine it was made on."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from pefttune.bases import BASES, Located
from pefttune.data import CATALOGUE
from pefttune.data.sources import is_hub_id

_PARTS = ("source", "train", "validation", "test")


def portable(recipe: dict[str, Any], located: Located) -> dict[str, Any]:
    """The resolved recipe with every local path cut to its last part. Catalogue names and Hub ids stay.

    `located` says where the base was found: that alone tells a Hub id from a folder of two parts.
    """
    base, data, output = recipe["base"], recipe["data"], recipe["output"]
    on_hub = data["source"] is not None and is_hub_id(data["source"])
    return recipe | {
        "base": base | {"source": base["source"] if base["source"] in BASES else located.hub_id or located.origin},
        "data": data if on_hub else data | {part: _cut(data[part]) for part in _PARTS},
        "output": output | {key: PurePath(output[key]).name for key in ("store", "runs")},
    }


def _cut(source: str | list[str] | None) -> Any:
    if isinstance(source, list):
        return [_cut(each) for each in source]
    return source if source is None or source in CATALOGUE else PurePath(source).name
