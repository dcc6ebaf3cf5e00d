"""`pefttune recipes` and `pefttune explain`: without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pefttune.cli.output import Json, out, print_json

if TYPE_CHECKING:
    from pefttune.recipe.schema import Base


def list_recipes(as_json: Json = False) -> None:
    """List the recipes that come with pefttune."""
    from pefttune.recipe import shipped_recipes

    found = {name: _first_comment(path.read_text(encoding="utf-8")) for name, path in shipped_recipes().items()}
    if as_json:
        print_json({"recipes": found})
        return
    for name, about in found.items():
        out.print(f"{name:24} {about}", soft_wrap=True)
    out.print("\ntrain one: pefttune train NAME")


def _first_comment(text: str) -> str:
    return text.splitlines()[0].removeprefix("#").strip() if text.startswith("#") else ""


def explain(
    key: Annotated[
        str | None, typer.Argument(help="A key such as training.learning_rate, a section, or a recipe.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Tell its value in this recipe, and its origin.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a recipe key: meaning, unit, default, and where its value in a recipe comes from; or of a recipe, what it
    leaves to rules, and why these choose what they choose."""
    from pefttune.recipe import all_keys, read_recipe, shipped_recipes
    from pefttune.recipe import explain as look_up

    if key is not None and (key in shipped_recipes() or key.endswith((".yaml", ".yml"))):
        _explain_choices(key, as_json)
        return
    loaded = read_recipe(recipe) if recipe else None
    if key is None:
        every = [look_up(each, loaded) for each in all_keys()]
        if loaded is not None:
            every = [each for each in every if each.origin]  # keys of other tasks have none
        if as_json:
            print_json({"keys": [asdict(each) for each in every]})
            return
        for each in every:
            value = each.default if loaded is None else f"{each.value}  ({each.origin})"
            out.print(f"{each.key:44} {value if value is not None else 'required'}", soft_wrap=True)
        return
    found = look_up(key, loaded)
    if as_json:
        print_json(asdict(found))
        return
    out.print(found.key, style="bold")
    out.print(found.meaning)
    if found.keys:
        _print_facts({each: ", ".join(look_up(each).kinds) for each in found.keys})
        return
    facts = {
        "of": ", ".join(found.kinds),
        "type": found.type,
        "bounds": found.bounds,
        "unit": found.unit,
        "default": "none: required" if found.default is None else found.default,
        "here": f"{found.value}, from {found.origin}" if found.origin else None,
    }
    _print_facts({name: fact for name, fact in facts.items() if fact})


def _print_facts(facts: Mapping[str, str | None]) -> None:
    """Two columns, each line of which stays in its own."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        table.add_row(f"  {name}", fact)
    out.print(table)


def _explain_choices(recipe: str, as_json: bool) -> None:
    from pefttune.recipe import choose, load_recipe, shape_of

    loaded = load_recipe(recipe)
    config = _config(loaded.base)
    choices = choose(loaded, shape_of(config) if config else None)
    if as_json:
        print_json({"choices": [asdict(choice) for choice in choices]})
        return
    for choice in choices:
        value = "chosen when it runs" if choice.value is None else choice.value
        out.print(f"{choice.key}: {value}", style="bold")
        out.print(f"  {choice.why}", soft_wrap=True)
    if not choices:
        out.print("the recipe leaves nothing to rules; pefttune explain --recipe shows all of its values")


def _config(base: Base) -> dict[str, Any] | None:
    """The `config.json` of the base, if that is on this machine."""
    folder = Path(base.source).expanduser()
    if not folder.is_dir():
        from pefttune import bases

        found = bases.local_folder(base.source, base.revision)
        if found is None:
            return None
        folder = found
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a base that cannot be read is told when it is loaded
        return None
    return config if isinstance(config, dict) else None
