"""`pefttune recipes` and `pefttune explain`: without torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pefttune.cli.output import Json, out, print_json


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
    key: Annotated[str | None, typer.Argument(help="A key such as training.learning_rate, or a section.")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Tell its value in this recipe, and its origin.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a recipe key: meaning, unit, default, and where its value in a recipe comes from."""
    from pefttune.recipe import all_keys, read_recipe
    from pefttune.recipe import explain as look_up

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
    facts = {
        "keys": ", ".join(found.keys),
        "type": found.type,
        "choices": ", ".join(found.choices),
        "bounds": found.bounds,
        "unit": found.unit,
        "default": found.default if found.default is not None or found.keys else "none: required",
        "here": f"{found.value}, from {found.origin}" if found.origin else None,
    }
    for name, fact in facts.items():
        if fact:
            out.print(f"  {name:8} {fact}")
