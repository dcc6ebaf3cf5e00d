"""`pefttune train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pefttune.cli.output import Json, example_texts, out, print_json

if TYPE_CHECKING:
    from pefttune.pipeline import Run


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to it, such as training.learning_rate=2e-4; with --together also more recipes, which the "
            "changes go for as well.",
            metavar="[RECIPE]... [OVERRIDES]...",
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Train several recipes in one pass over one resident base.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the adapter of a recipe, compare it with the base, and store it."""
    from pefttune.errors import InputError
    from pefttune.recipe import load_recipe

    others = [word for word in more or [] if "=" not in word]
    if others and not together:
        raise InputError(f"{others[0]!r} is no override key=value; to train several recipes at once, add --together")
    overrides = [word for word in more or [] if "=" in word]
    recipes = [load_recipe(one, overrides) for one in (recipe, *others)]

    from pefttune import pipeline
    from pefttune.cli.progress import Display

    with Display() as display:
        runs = pipeline.run_together(recipes, display)
    if as_json:
        told = [_told(run) for run in runs]
        print_json(told if together else told[0])
        return
    for run in runs:
        _print(run, named=len(runs) > 1)
    first = runs[0].manifest
    out.print(f"use it: pefttune predict {first['name']} {example_texts(first['inputs'])}")
    for run in runs:
        out.print(f"report: {run.report}   whole run: {run.seconds:,.0f} s", soft_wrap=True)


def _told(run: Run) -> dict[str, Any]:
    return {
        "name": run.manifest["name"],
        "version": int(run.folder.name),
        "folder": str(run.folder),
        "run_folder": str(run.run_folder),
        "report": str(run.report),
        "seconds": run.seconds,
        "comparison": run.comparison.summary(),
        "training": run.manifest["training"],
    }


def _print(run: Run, *, named: bool) -> None:
    from pefttune.cli.report import print_changed, print_comparison

    if named:
        out.print(f"\n{run.manifest['name']}")
    print_comparison(run.comparison)
    print_changed(run.comparison)
    memory = run.manifest["training"]["memory"]
    out.print(
        f"peak memory {memory['peak_mib']:,.0f} MiB: libraries {memory['libraries_mib']:,.0f}, frozen weights "
        f"{memory['weights_mib']:,.0f}, adapter and optimizer {memory['adapter_and_optimizer_mib']:,.0f}, activations "
        f"and the rest {memory['activations_mib']:,.0f}",
        soft_wrap=True,
    )
    out.print(f"stored, read back and verified: {run.folder}", soft_wrap=True)
