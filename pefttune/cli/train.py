"""`pefttune train`."""

from __future__ import annotations

from typing import Annotated

import typer

from pefttune.cli.output import Json, out, print_json


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it, such as training.learning_rate=2e-4.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the adapter of a recipe, compare it with the base, and store it."""
    from pefttune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])

    from pefttune import pipeline
    from pefttune.cli.progress import Display
    from pefttune.cli.report import print_changed, print_comparison

    with Display() as display:
        run = pipeline.run(loaded, display)
    if as_json:
        print_json(
            {
                "name": loaded.output.name,
                "version": int(run.folder.name),
                "folder": str(run.folder),
                "run_folder": str(run.run_folder),
                "seconds": run.seconds,
                "comparison": run.comparison.summary(),
                "training": run.manifest["training"],
            }
        )
        return
    print_comparison(run.comparison.summary())
    print_changed(run.comparison.fixed, run.comparison.broken)
    memory = run.manifest["training"]["memory"]
    out.print(
        f"peak memory {memory['peak_mib']:,.0f} MiB: libraries {memory['libraries_mib']:,.0f}, frozen weights "
        f"{memory['weights_mib']:,.0f}, adapter and optimizer {memory['adapter_and_optimizer_mib']:,.0f}, activations "
        f"and the rest {memory['activations_mib']:,.0f}",
        soft_wrap=True,
    )
    out.print(f"stored, read back and verified: {run.folder}", soft_wrap=True)
    out.print(f"log and figure: {run.run_folder}   whole run: {run.seconds:,.0f} s", soft_wrap=True)
    out.print(f'use it: pefttune predict {loaded.output.name} "…"')
