"""A recipe's variants: one recipe for each combination of the values that some of its keys are to have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttune.errors import RecipeError
from pefttune.recipe.adapters import METHODS
from pefttune.recipe.document import entries
from pefttune.recipe.load import checked, read_document
from pefttune.recipe.schema import Recipe

METHOD = "adapter.method"
SAME_ADAPTER = ("output", "evaluation")
"""The sections that change nothing of what is trained."""


@dataclass(frozen=True)
class Variant:
    """One of the recipes, and its values of the keys that vary, as they were written. A key that its method does not
    have is not among them."""

    settings: Mapping[str, str]
    recipe: Recipe

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def read_choices(words: Sequence[str]) -> dict[str, list[str]]:
    """`adapter.r=4,16` → the values of each key; a list that is one value stands in brackets. The method comes first,
    for other keys depend on it. Raises RecipeError with every fault."""
    found: dict[str, list[str]] = {}
    faults = []
    for word in words:
        key, _, text = (part.strip() for part in word.partition("="))
        try:
            values = entries(text)
        except ValueError as error:
            faults.append(f"{word!r}: {error}")
            continue
        if not key or not values:
            faults.append(f"{word!r} must look like adapter.r=4,16: a key and its values")
        elif key in found:
            faults.append(f"{word!r}: {key} stands twice; give all of its values in one list")
        found[key] = list(dict.fromkeys(values))
    if faults:
        raise RecipeError("\n".join(faults))
    return dict(sorted(found.items(), key=lambda item: item[0] != METHOD))


def variants(path: str | Path, choices: Mapping[str, Sequence[str]]) -> list[Variant]:
    """The variants of the recipe file, or shipped recipe, in order, each checked as any recipe is.

    Where the method is among the keys, each keeps only those keys of `adapter` that it has. Variants that are the same
    then, or mean the same (1e-3 and 0.001), are one. Raises RecipeError with every fault of any of them, and where
    nothing varies.
    """
    varying = [key for key, values in choices.items() if len(values) > 1]
    faults = [
        f"{key}: changes nothing of what is trained, so that there is nothing to choose by"
        for key in varying
        if key.partition(".")[0] in SAME_ADAPTER
    ]
    by_content: dict[str, Variant] = {}
    unused = set(choices)
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        document = read_document(path, [f"{key}={value}" for key, value in chosen.items()])
        dropped = set(_drop_strangers(document.value) if METHOD in choices else ())
        unused -= chosen.keys() - dropped
        settings = {key: value for key, value in chosen.items() if key in varying and key not in dropped}
        try:
            recipe = checked(document)
            by_content.setdefault(recipe.model_dump_json(), Variant(settings, recipe))
        except RecipeError as error:
            faults += str(error).splitlines()
    faults += [f"{key}: none of {', '.join(choices[METHOD])} has such a key" for key in sorted(unused)]
    if faults:
        raise RecipeError("\n".join(dict.fromkeys(faults)))
    if len(by_content) < 2:
        raise RecipeError("nothing varies: give a key at least two values, such as training.learning_rate=1e-4,1e-3")
    return list(by_content.values())


def _drop_strangers(value: Any) -> Iterator[str]:
    """Take from the `adapter` section the keys that only other methods have; gives them."""
    section = value.get("adapter") if isinstance(value, dict) else None
    if not isinstance(section, dict) or (kind := METHODS.get(str(section.get("method")))) is None:
        return  # a fault, told when the document is checked
    known = {name for other in METHODS.values() for name in other.model_fields}
    for name in [name for name in section if name in known - kind.model_fields.keys()]:
        del section[name]
        yield f"adapter.{name}"
