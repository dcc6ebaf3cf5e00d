"""`pefttune predict` and `pefttune evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from pefttune.cli.output import BaseFolder, Json, Store, err, out, print_json
from pefttune.errors import DataError, InputError

if TYPE_CHECKING:
    from pefttune.data import Row
    from pefttune.inference import Session
    from pefttune.tasks import Prediction

Name = Annotated[str, typer.Argument(help="An adapter: name, or name@version.")]


def predict(
    name: Name,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to predict.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="A file of rows: .jsonl, .json, .csv, .tsv or .parquet; streamed.")
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", help="Where rows go with their prediction, in any of these formats.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text-column", help="Column of the text; by default the recipe's.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    as_json: Json = False,
) -> None:
    """Predict the label of texts, or of every row of a file."""
    if bool(texts) == bool(input_file):
        raise InputError('give texts (pefttune predict NAME "text") or a file (--input FILE), one of them')
    if output_file and not input_file:
        raise InputError("--output goes with --input")
    if output_file and as_json:
        raise InputError("--output and --json are two places for the same result; use one of them")

    from pefttune.data import write_rows
    from pefttune.inference import open_session

    column = _column(name, store, text_column)
    session = open_session(name, Path(store), base)
    predicted = _predictions(session, _rows_of(texts or [], input_file, column))
    if output_file:
        write_rows(output_file, _counted({**values, **_told(p)} for values, p in predicted))
        err.print(f"written: {output_file}", markup=False, soft_wrap=True)
    elif as_json:
        print_json({"adapter": name, "predictions": [{**values, **_told(p)} for values, p in predicted]})
    elif input_file:
        for values, prediction in predicted:
            line = json.dumps({**values, **_told(prediction)}, ensure_ascii=False)
            out.print(line, markup=False, soft_wrap=True)
    else:
        for values, prediction in predicted:
            cut = "  (too long: its end was not read)" if prediction.truncated else ""
            line = f"{prediction.label:12} {prediction.confidence:.3f}  {values['text']}{cut}"
            out.print(line, markup=False, soft_wrap=True)


def _column(name: str, store: str, given: str | None) -> str:
    """The column that holds the text: as given, or as the adapter's recipe names it."""
    if given:
        return given
    from pefttune import store as room

    manifest = room.read_manifest(room.find(Path(store), name))
    return str(manifest["recipe"]["data"]["columns"].get("text", "text"))


def _rows_of(texts: list[str], file: Path | None, column: str) -> Iterator[tuple[dict[str, Any], Row]]:
    """Each row as it stands in the input, and as the task wants it."""
    from pefttune.data import Row, read_rows

    if file is None:
        for number, text in enumerate(texts, start=1):
            yield {"text": text}, Row({"text": text}, f"text {number}")
        return
    for row in read_rows(file):
        if column not in row.values:
            raise DataError(
                f"{row.origin}: there is no column {column!r}, but {', '.join(row.values)}; name it with --text-column"
            )
        yield dict(row.values), Row({"text": row.values[column]}, row.origin)


def _predictions(
    session: Session, rows: Iterator[tuple[dict[str, Any], Row]]
) -> Iterator[tuple[dict[str, Any], Prediction]]:
    ahead, behind = tee(rows)  # the session reads a few hundred rows ahead, to batch texts of like length
    for (values, _), prediction in zip(behind, session.predict(row for _, row in ahead), strict=True):
        yield values, prediction


def _counted(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, with their number and rate on the terminal: of a stream nobody knows how many will come."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows predicted, {task.fields[rate]:.1f} a second"))
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("", total=None, rate=0.0)
        for row in rows:
            yield row
            progress.update(bar, advance=1, rate=progress.tasks[0].speed or 0.0)


def _told(prediction: Prediction) -> dict[str, Any]:
    return {"prediction": prediction.label, "confidence": prediction.confidence, "truncated": prediction.truncated}


def evaluate(
    name: Name,
    data_file: Annotated[
        str | None, typer.Option("--data", help="A labelled file; by default the test rows of the adapter's recipe.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    as_json: Json = False,
) -> None:
    """Compare an adapter with its base on held-out rows."""
    from pefttune import pipeline
    from pefttune.cli.progress import Display
    from pefttune.cli.report import print_changed, print_comparison

    with Display() as display:
        comparison, recipe = pipeline.evaluate(name, Path(store), data_file, base, display)
    if as_json:
        print_json({"adapter": name, **asdict(comparison)})
        return
    print_comparison(comparison.summary(), recipe.evaluation.confidence_level)
    print_changed(comparison.fixed, comparison.broken)
