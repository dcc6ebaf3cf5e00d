"""The keys of a recipe, read off the schema, so that errors, `explain` and the pages all say the same of a key."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pefttune.recipe.schema import Recipe
from pefttune.recipe.types import Section

_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Slot:
    """What may stand at one place of a recipe: a type and the bounds on it."""

    annotation: Any
    metadata: tuple[Any, ...] = ()

    def members(self) -> list[Slot]:
        """The alternatives, null among them, each a plain type with the bounds on it."""
        origin, arguments = get_origin(self.annotation), get_args(self.annotation)
        if origin is Annotated:
            return Slot(arguments[0], (*self.metadata, *arguments[1:])).members()
        if origin in (Union, UnionType):
            return [member for argument in arguments for member in Slot(argument, self.metadata).members()]
        return [self]

    def sections(self) -> list[type[Section]]:
        """The sections that may stand here: several where a key such as `method` says which."""
        types = [member.annotation for member in self.members()]
        return [kind for kind in types if isinstance(kind, type) and issubclass(kind, Section)]

    def choices(self) -> list[str]:
        """The words that may stand here literally."""
        types = [member.annotation for member in self.members()]
        return [word for kind in types if get_origin(kind) is Literal for word in get_args(kind)]

    def only_choices(self) -> bool:
        """Whether nothing but one of `choices` may stand here."""
        return all(get_origin(member.annotation) is Literal for member in self.members())

    def bounds(self) -> str:
        """Such as `above 0 and at most 1024`; empty where there are none."""
        metadata = [item for member in self.members() for item in member.metadata]
        flat = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
        limits = [
            f"{word} {getattr(item, name)}" for name, word in _BOUNDS.items() for item in flat if hasattr(item, name)
        ]
        return " and ".join(dict.fromkeys(limits))

    def phrase(self, bounds: bool = True) -> str:
        """Readable type, such as `a whole number (above 0) or null`."""
        choices = self.choices()
        words = [f"one of: {', '.join(choices)}" if self.only_choices() else ", ".join(choices)] if choices else []
        for member in self.members():
            kind, arguments = get_origin(member.annotation) or member.annotation, get_args(member.annotation)
            if kind is tuple:
                words.append(f"a list (each entry: {Slot(arguments[0]).phrase()})")
            elif kind is dict:
                words.append(f"a mapping (each value: {Slot(arguments[1]).phrase()})")
            elif kind in _NOUNS:
                limits = member.bounds() if bounds and kind in (int, float) else ""
                words.append(_NOUNS[kind] + (f" ({limits})" if limits else ""))
            elif kind in self.sections():
                words.append("a section")
        return " or ".join(dict.fromkeys(words))

    def child(self, part: str | int) -> Slot | None:
        """What may stand below `part`, a key or the index of an entry; None where there is no such place."""
        if part in (keys := keys_of(self)):
            return keys[str(part)].slot
        for member in self.members():
            kind, arguments = get_origin(member.annotation), get_args(member.annotation)
            if kind is (tuple if isinstance(part, int) else dict):
                return Slot(arguments[0] if kind is tuple else arguments[1])
        return None


@dataclass(frozen=True)
class Key:
    """One key of the schema. Sections that may stand in one place share it, and each says what it is there."""

    slot: Slot
    infos: dict[str, FieldInfo]
    """By the section's kind, such as `summarization`."""

    @property
    def info(self) -> FieldInfo:
        """What the first of the sections says."""
        return next(iter(self.infos.values()))


ROOT = Slot(Recipe)


def keys_of(slot: Slot) -> dict[str, Key]:
    """The keys of the section, or sections, that may stand in `slot`."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for section in slot.sections():
        for name, info in section.model_fields.items():
            found.setdefault(name, {})[_kind(section)] = info
    return {name: Key(_shared_slot(list(infos.values())), infos) for name, infos in found.items()}


def _kind(section: type[Section]) -> str:
    """The word that chooses the section where several may stand; else its name."""
    choosing = next(iter(section.model_fields.values())).annotation
    return str(get_args(choosing)[0]) if get_origin(choosing) is Literal else section.__name__


def _shared_slot(infos: list[FieldInfo]) -> Slot:
    annotations: list[Any] = [info.annotation for info in infos]
    return Slot(reduce(operator.or_, annotations), tuple(infos[0].metadata))


def walk(slot: Slot = ROOT, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Every key below `slot` with its dotted path, a section before its own keys."""
    for name, key in keys_of(slot).items():
        yield prefix + name, key
        yield from walk(key.slot, f"{prefix}{name}.")


def all_keys(root: Slot = ROOT) -> Iterator[str]:
    """Every key that holds a value, not a section: `training.learning_rate`, `data.split.test`, `seed`, …"""
    return (path for path, key in walk(root) if not key.slot.sections())


def unknown_key(path: str, siblings: Slot, root: Slot = ROOT) -> str:
    """What to say of the last key in `path`, which the section it stands in does not know; that knows `siblings`."""
    parent, _, name = path.rpartition(".")
    known_keys = dict(walk(root))
    if path in known_keys:  # To another section that may stand in the same place.
        owners = [section for section in known_keys[parent].slot.sections() if name in section.model_fields]
        return f"unknown key here; it belongs to {' or '.join(_chosen_by(owner) for owner in owners)}"
    places: dict[str, list[str]] = {}
    for known in known_keys:
        places.setdefault(known.rpartition(".")[2], []).append(known)
    if name in places:
        homes = [place.rpartition(".")[0] or "the top level" for place in places[name]]
        return f"unknown key here; it belongs to {' or '.join(homes)}"
    if near := get_close_matches(name, keys_of(siblings), 1):
        return f"unknown key; did you mean {near[0]!r}?"
    if near := get_close_matches(name, places, 1):
        return f"unknown key; did you mean {' or '.join(map(repr, places[near[0]]))}?"
    return f"unknown key; known here: {', '.join(keys_of(siblings))}"


def tags(section: type[Section]) -> dict[str, list[str]]:
    """The keys that choose `section` among its alternatives, and by which words: those that have no default."""
    required = {name: key for name, key in keys_of(Slot(section)).items() if key.info.is_required()}
    return {name: key.slot.choices() for name, key in required.items()}


def _chosen_by(section: type[Section]) -> str:
    return ", ".join(f"`{name}: {word}`" for name, words in tags(section).items() for word in words)
