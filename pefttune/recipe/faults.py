"""Pydantic's errors → sentences for the user, in the order of the file."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pefttune.recipe.document import Place, dotted, fault, inline
from pefttune.recipe.keys import ROOT, Slot, keys_of, tags, unknown_key

_MAX_SHOWN = 60


def sentences(error: ValidationError, value: object, origins: Mapping[Place, str], root: Slot = ROOT) -> list[str]:
    """One line for each fault that `error` found in `value`."""
    messages: dict[Place, str] = {}
    for detail in error.errors(include_url=False):
        path, message = _translate(detail, value, root)
        # Where several types are allowed pydantic says why each of them does not fit; a rule's sentence says the most.
        if path not in messages or detail["type"] == "value_error":
            messages[path] = message
    order = {path: position for position, path in enumerate(origins)}

    def nearest(path: Place) -> Place:
        return path if path in origins else nearest(path[:-1])

    placed = [(nearest(path), path, message) for path, message in messages.items()]
    placed.sort(key=lambda item: order[item[0]])
    return [fault(origins[place], path, message) for place, path, message in placed]


def _translate(detail: ErrorDetails, value: object, root: Slot) -> tuple[Place, str]:
    kind, context = detail["type"], detail.get("ctx", {})
    path, slot = _locate(detail["loc"], root)
    if kind == "extra_forbidden":
        path = (*path, detail["loc"][-1])
        return path, unknown_key(dotted(path), slot, root)
    if kind == "missing":
        return path, _missing(slot)
    if kind.startswith("union_tag"):
        key = str(context["discriminator"]).strip("'")
        path, slot = (*path, key), keys_of(slot)[key].slot
        return path, _missing(slot) if kind == "union_tag_not_found" else _misfit(slot, _at(value, path))
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "string_too_short":
        return path, "must not be empty"
    return path, _misfit(slot, _at(value, path))


def _locate(location: Place, root: Slot) -> tuple[Place, Slot]:
    """The place that pydantic's location means, without the names of the alternatives that pydantic puts into it."""
    path: Place = ()
    slot = root
    for part in location:
        sections = slot.sections()
        if len(sections) > 1:
            slot = next(Slot(section) for section in sections if any(part in words for words in tags(section).values()))
        elif child := slot.child(part):
            path, slot = (*path, part), child
        else:
            break
    return path, slot


def _missing(slot: Slot) -> str:
    needed = [name for name, key in keys_of(slot).items() if key.info.is_required()]
    if needed:
        return f"missing section; it needs {', '.join(needed)}"
    return f"missing key; one of: {', '.join(slot.choices())}" if slot.choices() else "missing key"


def _misfit(slot: Slot, value: Any) -> str:
    shown, choices = _show(value), slot.choices()
    if slot.only_choices():
        message = f"{shown} is not one of: {', '.join(choices)}"
    else:
        message = f"must be {slot.phrase()}, not {shown}"
    if isinstance(value, str) and (near := get_close_matches(value, choices, 1)):
        return f"{message}; did you mean {near[0]!r}?"
    if isinstance(value, bool | int | float) and any(member.annotation is str for member in slot.members()):
        return f"{message}; put it in quotes"
    return message


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, str) else inline(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _at(value: Any, path: Place) -> Any:
    for part in path:
        value = value[part]
    return value
