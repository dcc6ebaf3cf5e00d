"""`pefttune sweep`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pefttune.cli.output import Json, err, out, percent, print_json
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.sweep import Sweep
    from pefttune.sweep.sweeping import Train


class Kind(StrEnum):
    """Who chooses among the combinations."""

    GRID = "grid"
    RANDOM = "random"
    OPTUNA = "optuna"


def sweep(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    choices: Annotated[
        list[str] | None,
        typer.Argument(
            help="Keys with the values to try, such as adapter.method=lora,ia3 adapter.r=4,16; a key with one value is "
            "a change for all."
        ),
    ] = None,
    searcher: Annotated[
        Kind, typer.Option("--searcher", help="Try all combinations, some by chance, or those that Optuna proposes.")
    ] = Kind.GRID,
    trials: Annotated[int | None, typer.Option("--trials", help="How many of them, if not all.")] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Train each trial alone, so that its seconds and its memory are its own.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Train on Ray's workers: on this machine (`local`) or on the cluster at an address.",
            metavar="ADDRESS",
        ),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Then train the winner, compare it, and store it.")] = False,
    as_json: Json = False,
) -> None:
    """Find the best method, rank, learning rate or other keys of a recipe by successive halving on validation rows."""
    from pefttune import store
    from pefttune import sweep as room
    from pefttune.recipe import load_recipe, read_choices, variants

    if others := [word for word in choices or [] if "=" not in word]:
        raise InputError(f"{others[0]!r} is no key with values, such as adapter.r=4,16")
    tried = read_choices(choices or [])
    found = variants(recipe, tried)
    own = found[0].recipe
    chooser = room.searcher(searcher.value, found, tried, trials, own.seed)
    if train:
        with store.staged(Path(own.output.store), own.output.name):
            pass  # a store that cannot be written to says so now

    from pefttune import pipeline
    from pefttune.cli.progress import Display

    elsewhere: AbstractContextManager[Train | None] = room.on_ray(ray) if ray else nullcontext()
    with elsewhere as trainer, Display() as display:
        swept = room.sweep(found, chooser, display, apart=apart, train=trainer)
        run = pipeline.run(load_recipe(swept.recipe), display) if train else None
    if as_json:
        stored = {"stored": str(run.folder), "comparison": run.comparison.summary()} if run else {}
        print_json({"folder": str(swept.folder), "recipe": str(swept.recipe), **swept.told(), **stored})
        return
    _print(swept)
    if run is None:
        out.print(f"train it: pefttune train {swept.recipe}", soft_wrap=True)
        return
    from pefttune.cli.report import print_comparison

    print_comparison(run.comparison)
    out.print(f"stored, read back and verified: {run.folder}", soft_wrap=True)


def _print(swept: Sweep) -> None:
    from pefttune.sweep import NOTE, is_shared, reasons, table

    heading, *rows = table(swept.metric, swept.trials)
    rows_told = f"{swept.validation_rows:,} validation rows, of which one is {percent(1 / swept.validation_rows)}"
    shown = Table(title=f"judged on {rows_told}")
    for name in heading:
        shown.add_column(name, justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)
    for reason in reasons(swept.trials):
        err.print(reason, soft_wrap=True)
    if is_shared(swept.trials):
        out.print(NOTE, soft_wrap=True)
    out.print(f"best: trial {swept.best.number}: {swept.best.variant}", style="bold", soft_wrap=True)
    out.print(f"table, figure and JSON: {swept.folder}", soft_wrap=True)
