"""What a key of the recipe means, what it may be, and what it is in a given recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from pefttune.errors import RecipeError
from pefttune.recipe.document import inline
from pefttune.recipe.keys import ROOT, Key, Slot, keys_of, unknown_key, walk
from pefttune.recipe.load import LoadedRecipe, to_mapping


@dataclass(frozen=True)
class Explanation:
    """One key, in words. Values are written as in a recipe; None means that there is none.

    A required key has no default. A section has no default, example or value: it has `keys`. `kinds` are the tasks or
    methods that have the key, where not all have it. What they do not say alike has a line for each, in `meaning`.
    """

    key: str
    meaning: str
    type: str
    choices: tuple[str, ...] = ()
    bounds: str | None = None
    unit: str | None = None
    default: str | None = None
    example: str | None = None
    value: str | None = None
    origin: str | None = None
    kinds: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def explain(key: str, loaded: LoadedRecipe | None = None, root: Slot = ROOT) -> Explanation:
    """Explain a key such as `training.learning_rate`, or a section such as `training`."""
    known = dict(walk(root))
    if key not in known:
        raise RecipeError(f"{key}: {_unknown(key, known)}")
    found = known[key]
    section, slot = bool(found.slot.sections()), found.slot
    value = None if section or loaded is None else _value(key, loaded)
    return Explanation(
        key=key,
        meaning=_meaning(found),
        type=slot.phrase(bounds=False),
        choices=tuple(slot.choices()),
        bounds=_bounds(found),
        unit=_unit(found),
        default=None if section else _default(found),
        example=None if section else _example(found),
        value=value,
        origin=None if value is None or loaded is None else loaded.origins[key],
        kinds=_kinds(key, known),
        keys=tuple(f"{key}.{name}" for name in keys_of(slot)),
    )


def _unknown(key: str, known: dict[str, Key]) -> str:
    parent = key.rpartition(".")[0]
    while parent and parent not in known:
        key, parent = parent, parent.rpartition(".")[0]
    siblings = known[parent].slot if parent else ROOT
    return unknown_key(key, siblings) if keys_of(siblings) else f"unknown key; {parent} has no keys below it"


def _unit(key: Key) -> str | None:
    extra = key.info.json_schema_extra
    return str(extra["unit"]) if isinstance(extra, dict) else None


def _kinds(key: str, known: dict[str, Key]) -> tuple[str, ...]:
    parent, having = key.rpartition(".")[0], known[key].infos
    may_stand = known[parent].slot.sections() if parent else ()
    return tuple(having) if len(having) < len(may_stand) else ()


def _meaning(key: Key) -> str:
    told = _together({kind: info.description or "" for kind, info in key.infos.items()})
    return "\n".join(f"{kinds}: {each}" if kinds else each for each, kinds in told.items())


def _bounds(key: Key) -> str | None:
    return _listed({kind: Slot(info.annotation, tuple(info.metadata)).bounds() for kind, info in key.infos.items()})


def _default(key: Key) -> str | None:
    if key.info.is_required():
        return None
    return _listed({kind: _own_default(info) for kind, info in key.infos.items()})


def _listed(said: dict[str, str]) -> str | None:
    """What most kinds say, then what others do: `all-linear, null (ia3)`."""
    told = _together(said)
    return ", ".join(f"{each} ({kinds})" if kinds else each for each, kinds in told.items() if each) or None


def _together(said: dict[str, str]) -> dict[str, str]:
    """Kind → what it says, as what is said → the kinds that say it, which need no names where they are most of them."""
    kinds: dict[str, list[str]] = {}
    for kind, each in said.items():
        kinds.setdefault(each, []).append(kind)
    by_number = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return {each: "" if 2 * len(those) > len(said) else ", ".join(those) for each, those in by_number}


def _own_default(info: FieldInfo) -> str:
    return inline(info.get_default(call_default_factory=True))


def _example(key: Key) -> str:
    if key.info.examples:
        return inline(key.info.examples[0])
    return key.slot.choices()[0] if key.info.is_required() else _own_default(key.info)


def _value(key: str, loaded: LoadedRecipe) -> str | None:
    value: Any = to_mapping(loaded.recipe)
    for part in key.split("."):
        if part not in value:
            return None
        value = value[part]
    return inline(value)
