"""`pefttune probe`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pefttune.cli.output import Json, out, percent, print_json
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.evaluation.transfer import BaseFound, TransferReport

VIEWS_SHOWN = 3


def probe(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to it, such as data.max_length=256.")] = None,
    bases: Annotated[
        str | None, typer.Option("--bases", help="Bases to compare, by commas, each as `base.source` in a recipe.")
    ] = None,
    adapters: Annotated[
        str | None,
        typer.Option("--adapters", help="Stored adapters to start from, by commas; `all` for every one that fits."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows", min=1, help="Rows to sample. By default a twentieth of those that training reads, 200 to 1,000."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Foretell, before any training, what will transfer: which base, which layer, which adapter to start from."""
    from pefttune.recipe import load_recipe

    given, starts = _listed("--bases", bases), _listed("--adapters", adapters)
    loaded = load_recipe(recipe, overrides or [])

    from pefttune import pipeline
    from pefttune.cli.progress import Display

    with Display() as display:
        found = pipeline.probe(loaded, given, starts, rows, display)
    if as_json:
        print_json({**asdict(found.report), "transfers": found.report.transfers, "run_folder": str(found.folder)})
        return
    _print(found.report)
    out.print(f"picture and JSON: {found.folder}   {found.report.seconds:,.0f} s", soft_wrap=True)


def _listed(option: str, names: str | None) -> list[str]:
    listed = [name.strip() for name in (names or "").split(",") if name.strip()]
    if names is not None and not listed:
        raise InputError(f"{option} names none: write names with commas between them, or leave it out")
    return listed


def _print(report: TransferReport) -> None:
    if report.bases[0].forecast:
        _print_forecasts(report)
        _print_views(report)
    else:
        _print_answers(report)
    for base in report.bases:
        _print_told(base, report)
    if report.sources:
        _print_sources(report)
    for warning in report.warnings:
        out.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _print_forecasts(report: TransferReport) -> None:
    table = _table(
        f"{report.name}: {report.metric} foretold for {report.training_rows:,} training rows, by {report.rows:,}",
        ("base", "as", "forecast", "interval", "probe", "two points more take"),
    )
    for base in report.bases:
        assert base.forecast
        found, more = base.forecast, base.forecast.more_rows
        interval = f"{percent(found.low)} to {percent(found.high)}"
        further = f"{more:,} rows" if more else "no number of rows"
        told = (percent(found.metric), interval, percent(found.probe), further)
        table.add_row(base.source, base.approach, *(told if base.transfers else ("will not transfer", "", told[2], "")))
    out.print(table)


def _print_views(report: TransferReport) -> None:
    table = _table("the best views", ("base", "view", "linear probe", "nearest 5", "LogME", "H-score"))
    for base in report.bases:
        for view in base.views[:VIEWS_SHOWN]:
            scores = (percent(view.linear), percent(view.nearest), f"{view.logme:.3f}", f"{view.h_score:.2f}")
            table.add_row(base.source, view.view, *scores)
    out.print(table)


def _print_answers(report: TransferReport) -> None:
    columns = ("base", "own answer", "another's", "own is likelier", "bits a byte")
    table = _table(f"{report.name}: log-likelihood of answers by untrained bases, nats a token", columns)
    for base in report.bases:
        assert base.answers
        found = base.answers
        told = (f"{found.own:.2f}", f"{found.others:.2f}", percent(found.matched), f"{found.bits_per_byte:.2f}")
        table.add_row(base.source, *told)
    out.print(table)
    out.print("nothing is learned here: what training reaches is not foretold, only where it begins", soft_wrap=True)


def _print_told(base: BaseFound, report: TransferReport) -> None:
    if base.control:
        out.print(
            f"{base.source}: mean recall {percent(base.control.real)} on real labels, {percent(base.control.chance)} "
            f"± {percent(base.control.deviation)} on {len(base.control.shuffled)} shuffles of them",
            soft_wrap=True,
        )
    if base.text_loss:
        out.print(
            f"{base.source}: loses {base.text_loss.real:.2f} nats a token on the texts, {base.text_loss.shuffled:.2f} "
            "with their tokens shuffled: the farther apart, the better it knows such texts",
            soft_wrap=True,
        )


def _print_sources(report: TransferReport) -> None:
    table = _table("to start from", ("adapter", "labels", "LEEP", "NCE", "accuracy as it is", "LogME"))
    for source in report.sources:
        scores = (source.leep, source.nce, source.accuracy, source.logme)
        told = [f"{value:.3f}" if value is not None else "" for value in scores]
        told[2] = percent(source.accuracy) if source.accuracy is not None else ""
        table.add_row(source.name, " ".join(source.labels[:6]), *told)
    out.print(table)
    if report.label_entropy is not None:
        out.print(f"a source that knows nothing has LEEP and NCE {-report.label_entropy:.3f}", soft_wrap=True)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
