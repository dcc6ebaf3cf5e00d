"""`pefttune diff`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pefttune.cli.output import BaseFolder, Json, Store, out, percent, points, print_json
from pefttune.cli.report import on_one_line

if TYPE_CHECKING:
    from pefttune.pipeline import Diff

ROWS_SHOWN = 20
Pairs = dict[str, tuple[float | None, float | None]]


def diff(
    first: Annotated[str, typer.Argument(help="An adapter: name, name@version, or name@alias.")],
    second: Annotated[str, typer.Argument(help="Another one, or another version.")],
    data_file: Annotated[
        str | None,
        typer.Option(
            "--data", help="A file of rows, labelled or not; by default the test rows of the first one's recipe."
        ),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=0, help="Rows to compare at most; 0: none, and no base is read.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two adapters: settings, updates layer by layer, metrics, answers to the same rows."""
    from pefttune import pipeline
    from pefttune.cli.progress import Display

    with Display() as display:
        found = pipeline.diff((first, second), Path(store), data_file, max_rows, base, display)
    if as_json:
        print_json(_told(found))
    else:
        _print(found)


def _told(found: Diff) -> dict[str, Any]:
    if found.changes is None:
        return {**asdict(found), "layers": None}
    changes, layers = (
        {name: {**asdict(change), "cosine": change.cosine} for name, change in each.items()}
        for each in (found.changes, found.layers)
    )
    return {**asdict(found), "changes": changes, "layers": layers}


def _print(found: Diff) -> None:
    names = (found.first, found.second)
    if found.settings:
        _print_pairs(
            "settings that differ", "key", names, [(key, *map(str, pair)) for key, pair in found.settings.items()]
        )
    else:
        out.print("no settings differ")
    _print_metrics("metrics, each on its own test rows when it was stored", names, found.metrics)
    if found.changes is not None:
        _print_layers(found)
    if found.rows is not None:
        _print_rows(found)
    for sentence in found.refused:
        out.print(sentence, soft_wrap=True)


def _print_pairs(title: str, what: str, names: tuple[str, str], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(title=title)
    for heading in (what, *names):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _print_metrics(title: str, names: tuple[str, str], metrics: Pairs) -> None:
    rows = [(called, *("–" if value is None else percent(value) for value in pair)) for called, pair in metrics.items()]
    _print_pairs(title, "metric", names, rows)


def _print_layers(found: Diff) -> None:
    """Norms of the updates of all modules of a layer together."""
    table = Table(title="Frobenius norms of the updates, modules of a layer together")
    for heading in ("layer", found.first, found.second, "difference", "cosine"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", overflow="fold")
    for layer, change in found.layers.items():
        cosine = "–" if change.cosine is None else f"{change.cosine:.3f}"
        table.add_row(layer, *(f"{norm:.4g}" for norm in (change.first, change.second, change.difference)), cosine)
    out.print(table)


def _print_rows(found: Diff) -> None:
    rows = found.rows
    assert rows is not None
    if rows.metrics is not None:
        _print_metrics(f"on the same {rows.rows:,} rows", (found.first, found.second), rows.metrics)
    if (difference := rows.difference) is not None:
        out.print(
            f"{found.second} against {found.first}: {points(difference.difference)} points (interval "
            f"{points(difference.low)} to {points(difference.high)}, sign test p {difference.sign_test_p:.2g}): "
            f"{difference.fixed} rows better, {difference.broken} worse",
            soft_wrap=True,
        )
    for note in rows.notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(f"{len(rows.changed):,} of {rows.rows:,} rows are answered differently")
    for row in rows.changed[:ROWS_SHOWN]:
        right = "" if row.reference is None else f" (right: {on_one_line(row.reference)})"
        first, second, text = map(on_one_line, (row.first, row.second, row.text))
        out.print(f"  {row.origin}: {first} → {second}{right}: {text}", soft_wrap=True)
    if len(rows.changed) > ROWS_SHOWN:
        out.print(f"  and {len(rows.changed) - ROWS_SHOWN:,} more; --json has all of them")
