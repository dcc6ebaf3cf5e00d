"""`pefttune merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from pefttune.cli.output import BaseFolder, Json, Store, out, percent, points, print_json
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.pipeline import Merge, Search


def merge(
    names: Annotated[list[str], typer.Argument(help="Two adapters or more of one base: name, or name@version.")],
    to: Annotated[str, typer.Option("--to", help="Name of the new adapter.")],
    method: Annotated[
        Literal["linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"],
        typer.Option("--method", help="How updates become one; docs/composing.md says what each does."),
    ] = "linear",
    weights: Annotated[
        str | None, typer.Option("--weights", help="A weight for each adapter, as 0.5,0.5; by default 1 / n each.")
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="Share of an update that pruning leaves; by default 0.5.")
    ] = None,
    r: Annotated[
        int | None,
        typer.Option("--r", help="Rank of the result; by default that of all together, for svd the largest."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of whatever is drawn.")] = 0,
    search: Annotated[bool, typer.Option("--search", help="Seek the weights on validation rows.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Weights to try at most; by default 16.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", help="Drop of a task's metric, as a fraction, that a search may cost; by default 0.02."
        ),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, help="Rows of each task to judge on at most; by default all.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    as_json: Json = False,
) -> None:
    """Merge LoRA adapters of one base into a new one, and evaluate it on the tasks of all."""
    from pefttune import pipeline
    from pefttune.cli.progress import Display

    way = pipeline.Way(method, _numbers(weights), density, r, seed, _search(search, steps, max_drop))
    with Display() as display:
        merged = pipeline.merge(names, to, way, Path(store), base, max_rows, display)
    if as_json:
        print_json(_told(merged))
    else:
        _print(merged)


def _numbers(weights: str | None) -> tuple[float, ...] | None:
    if weights is None:
        return None
    try:
        return tuple(float(number) for number in weights.split(","))
    except ValueError:
        raise InputError(f"--weights {weights}: write numbers with commas between them, such as 0.5,0.5") from None


def _search(asked: bool, steps: int | None, max_drop: float | None) -> Search | None:
    from pefttune.pipeline import Search

    if not asked:
        if given := [name for name, value in (("--steps", steps), ("--max-drop", max_drop)) if value is not None]:
            raise InputError(f"{given[0]} goes with --search")
        return None
    usual = Search()
    return Search(usual.steps if steps is None else steps, usual.max_drop if max_drop is None else max_drop)


def _told(merged: Merge) -> dict[str, Any]:
    return {
        "name": merged.manifest["name"],
        "version": int(merged.folder.name),
        "folder": str(merged.folder),
        "run_folder": str(merged.run_folder),
        "seconds": merged.seconds,
        "comparison": merged.comparison.summary(),
        "lineage": merged.manifest["lineage"],
    }


def _print(merged: Merge) -> None:
    from pefttune.cli.report import print_comparison

    lineage = merged.manifest["lineage"]
    each = ", ".join(f"{parent['weight']:g} {parent['name']}@{parent['version']}" for parent in lineage["parents"])
    out.print(f"merged by {lineage['how']}: {each}", soft_wrap=True)
    out.print(f"rank {lineage['r']} holds {percent(lineage['kept'])} of the update's sum of squares", soft_wrap=True)
    if lineage["search"]:
        _print_tasks(
            lineage["search"]["tasks"], f"on validation rows, the best of {lineage['search']['tried']} weights"
        )
    _print_tasks(lineage["tasks"], "on held-out rows")
    print_comparison(merged.comparison, f"held-out rows of {lineage['tasks'][0]['adapter']}")
    out.print(f"stored, read back and verified: {merged.folder}", soft_wrap=True)


def _print_tasks(rows: list[dict[str, Any]], title: str) -> None:
    """Each parent's metric on its own task beside that of the merged adapter."""
    table = Table(title=title)
    for heading in ("task of", "metric", "rows", "alone", "merged", "points"):
        table.add_column(heading, justify="left" if heading in ("task of", "metric") else "right", overflow="fold")
    for row in rows:
        own = (percent(row["alone"]), percent(row["merged"]), points(row["merged"] - row["alone"]))
        table.add_row(row["adapter"], row["metric"], f"{row['rows']:,}", *own)
    out.print(table)
