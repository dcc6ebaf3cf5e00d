"""A recipe file and overrides → a checked recipe, and back to plain values for storing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pefttune.errors import RecipeError
from pefttune.recipe.document import Document, Place, dump, fault, parse
from pefttune.recipe.faults import sentences
from pefttune.recipe.keys import all_keys
from pefttune.recipe.schema import Recipe
from pefttune.recipe.shipped import shipped_recipes

_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, and where each leaf key has its value from: `recipes/x.yaml:7`, `override '…'` or `default`."""

    recipe: Recipe
    origins: Mapping[str, str]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a file, or a shipped recipe by name, and apply overrides such as `training.learning_rate=2e-4`.

    Every fault is in one RecipeError, with its line or override, its key, and how to mend it.
    """
    return read_recipe(path, overrides).recipe


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Like `load_recipe`, and remember where each value came from."""
    document = read_document(path, overrides)
    recipe = checked(document)
    origins = {key: document.origins.get(tuple(key.split(".")), "default") for key in all_keys()}
    return LoadedRecipe(recipe, origins)


def read_document(path: str | Path, overrides: Sequence[str]) -> Document:
    """What the file and the overrides say, not checked yet."""
    file, text = _read(Path(path))
    document = parse(text, str(file))
    _require_mapping(document)
    for override in overrides:
        _apply(override, document)
    return document


def recipe_from_mapping(mapping: object, where: str) -> Recipe:
    """Check a resolved recipe that was stored, say in a manifest; `where` names it in errors."""
    document = Document(mapping, {(): where})
    _require_mapping(document)
    return checked(document)


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe, defaults and all, as plain values that JSON can hold."""
    return recipe.model_dump(mode="json")


def resolved_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `load_recipe` reads back as the same recipe."""
    return dump(to_mapping(recipe))


def _require_mapping(document: Document) -> None:
    if not document.faults and not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "is not a recipe"
        message = f"{what}: a recipe is a mapping with keys such as `task:`"
        document.faults.append(fault(document.origins[()], (), message))


def checked(document: Document) -> Recipe:
    """The recipe that the document is. Raises RecipeError with every fault."""
    faults = document.faults
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        # Of a file that could not be read, there is no more to say.
        if isinstance(document.value, dict):
            faults = faults + sentences(error, document.value, document.origins)
    if faults:
        raise RecipeError("\n".join(faults))
    return recipe


def _apply(override: str, document: Document) -> None:
    key, _, value = override.partition("=")
    place: Place = tuple(key.strip().split("."))
    origin = f"override {override!r}"
    if not value.strip() or not all(place):
        document.faults.append(fault(origin, (), "must look like training.learning_rate=2e-4"))
        return
    given = parse(value, origin, at=place, numbered=False)
    document.faults += given.faults
    if isinstance(document.value, dict) and not given.faults:
        document.put(place, given)


def _read(path: Path) -> tuple[Path, str]:
    """The text of the file, or of the shipped recipe that `path` names."""
    try:
        try:
            raw = _head(path)
        except FileNotFoundError:
            path = _shipped(path)
            raw = _head(path)
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder, not a recipe") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise RecipeError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(raw) > _MAX_BYTES:
        raise RecipeError(f"{path}: is larger than {_MAX_BYTES} bytes; a recipe has a few dozen lines")
    try:
        return path, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: is not UTF-8 text (byte {raw[error.start]:#04x}); save it as UTF-8"
        ) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MAX_BYTES + 1)


def _shipped(path: Path) -> Path:
    shipped = shipped_recipes()
    name = path.name.removesuffix(".yaml")
    if path == Path(path.name) and name in shipped:
        return shipped[name]
    beside = map(str, path.parent.glob("*.yaml"))
    near = get_close_matches(name, shipped) + get_close_matches(str(path), beside)
    if near:
        raise RecipeError(f"{path}: no such file; did you mean {' or '.join(map(repr, near))}?")
    raise RecipeError(f"{path}: no such file; shipped recipes: {', '.join(shipped) or 'none'}")
