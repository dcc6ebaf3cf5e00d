"""Methods from other packages: a section of the recipe for each entry point of the group `pefttune.methods`.

An entry point that cannot be used takes its word too, so that a recipe which asks for it is told why, and no other is
troubled.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, create_model, model_validator

from pefttune.recipe.types import Section

GROUP = "pefttune.methods"
Kind = TypeVar("Kind", bound=Section)


def sections_of_others(base: type[Kind], own: Collection[str]) -> dict[str, type[Kind]]:
    """Subclasses of `base` by the word that chooses them. A word of our `own` is nobody else's."""
    found: dict[str, type[Kind]] = {}
    for entry in entry_points(group=GROUP):
        taken = entry.name in own or entry.name in found
        told = "another method has that name" if taken else _fault(entry, base)
        found[entry.name] = _refusing(base, entry, told) if told else entry.load()
    return found


def _fault(entry: EntryPoint, base: type[Section]) -> str | None:
    """Why an entry point gives no section; None if it does."""
    try:
        kind = entry.load()
    except Exception as error:  # whatever another package's code raises
        return f"{entry.value} cannot be loaded ({type(error).__name__}: {error})"
    if not (isinstance(kind, type) and issubclass(kind, base)):
        return f"{entry.value} is no subclass of pefttune.recipe.adapters.{base.__name__}"
    if get_args(kind.model_fields["method"].annotation) != (entry.name,):
        return f"{entry.value} does not say `method: Literal[{entry.name!r}]`"
    return None


def _refusing(base: type[Kind], entry: EntryPoint, told: str) -> type[Kind]:
    """A section that is never right, and says why."""
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
    sentence = f"`method: {entry.name}` is offered by the package {package}, but {told}; mend or remove that package"

    def refuse(value: Any) -> Any:
        raise ValueError(sentence)

    validators: dict[str, Any] = {"refuse": model_validator(mode="before")(refuse)}
    method: Any = (Literal[entry.name], Field(description=sentence))
    return create_model("Refusing", __base__=base, __validators__=validators, method=method)
