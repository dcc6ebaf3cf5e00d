"""`pefttune import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pefttune.cli.output import Json, example_texts, out, print_json

if TYPE_CHECKING:
    from pefttune.pipeline import Import


def take_in(
    folder: Annotated[Path, typer.Argument(help="A folder that PEFT's save_pretrained wrote, or a trainer by it.")],
    recipe: Annotated[
        str, typer.Argument(help="What the adapter is for: a recipe file, or the name of a shipped one.")
    ],
    name: Annotated[str, typer.Option("--as", help="Its name in the store.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, such as base.source=my-base.")
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, help="Test rows to compare on at most; by default all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take an adapter that plain PEFT wrote into the store: read strictly, compared with its base, and proven."""
    from pefttune import store
    from pefttune.recipe import load_recipe

    store.check_name(name)
    loaded = load_recipe(recipe, overrides or [])

    from pefttune import pipeline
    from pefttune.cli.progress import Display

    with Display() as display:
        taken = pipeline.take_in(folder, loaded, name, max_rows, display)
    if as_json:
        print_json(_told(taken))
    else:
        _print(taken)


def _told(taken: Import) -> dict[str, Any]:
    return {
        "name": taken.manifest["name"],
        "version": int(taken.folder.name),
        "folder": str(taken.folder),
        "run_folder": str(taken.run_folder),
        "notes": list(taken.notes),
        "adapter": taken.manifest["recipe"]["adapter"],
        "comparison": taken.comparison.summary(),
        "lineage": taken.manifest["lineage"],
        "seconds": taken.seconds,
    }


def _print(taken: Import) -> None:
    from pefttune.cli.report import print_comparison

    print_comparison(taken.comparison)
    out.print(f"stored, read back and verified: {taken.folder}", soft_wrap=True)
    out.print(f"use it: pefttune predict {taken.manifest['name']} {example_texts(taken.manifest['inputs'])}")
