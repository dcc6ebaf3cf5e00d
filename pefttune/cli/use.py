"""`pefttune predict` and `pefttune evaluate`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pefttune.cli.mismatch import MayDiffer, checked_fields, column_of, tell_mismatch
from pefttune.cli.output import BaseFolder, Json, Store, example_texts, print_json
from pefttune.cli.predicted import Predicted, check_file, print_drawn, print_rows, write_file
from pefttune.errors import DataError, InputError

if TYPE_CHECKING:
    from pefttune.data import Row
    from pefttune.inference import Session

Name = Annotated[str, typer.Argument(help="An adapter: name, or name@version.")]
Rows = Iterator[tuple[dict[str, Any], "Row"]]
"""Each row as it stands in the input, and as the task wants it."""
PREDICTED = ("prediction", "confidence", "truncated")
"""The columns that every prediction adds."""


def predict(
    name: Name,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to predict; column=text for a task of several columns.")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="A file of rows: .jsonl, .json, .csv, .tsv or .parquet; streamed.")
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Where rows go with their prediction, in any of these formats, or .html to look at."
        ),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text-column", help="Column of the text; by default the recipe's.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    may_differ: MayDiffer = None,
    as_json: Json = False,
) -> None:
    """Predict texts, or every row of a file."""
    _check_options(texts, input_file, output_file, text_column, as_json=as_json)
    allowed = checked_fields(may_differ)
    # What is wrong with a name or a file is told before torch is imported and a base is read.
    columns = _columns(name, store, text_column)
    rows = _file_rows(input_file, columns) if input_file else _text_rows(texts or [], list(columns))
    if output_file:
        check_file(output_file)

    from pefttune.inference import open_session

    session = open_session(name, Path(store), base, may_differ=allowed)
    mismatch = session.base_mismatch(name)
    tell_mismatch(name, mismatch)
    predicted = _predictions(session, rows, column_of(mismatch))
    if output_file:
        called = f"{name}, on another base than its own ({', '.join(mismatch)})" if mismatch else name
        write_file(output_file, called, predicted)
    elif as_json:
        predictions = [values for _, values, _ in predicted]
        print_json({"name": name, "base_mismatch": mismatch, "predictions": predictions})
    elif input_file:
        print_rows(predicted)
    else:
        print_drawn(predicted)


def _check_options(
    texts: list[str] | None,
    input_file: Path | None,
    output_file: Path | None,
    text_column: str | None,
    *,
    as_json: bool,
) -> None:
    """Raise InputError for options that do not go together."""
    if bool(texts) == bool(input_file):
        raise InputError('give texts (pefttune predict NAME "text") or a file (--input FILE), one of them')
    if output_file and not input_file:
        raise InputError("--output goes with --input")
    if text_column and not input_file:
        raise InputError("--text-column goes with --input")
    if output_file and as_json:
        raise InputError("--output and --json are two places for the same result; use one of them")


def _columns(name: str, store: str, given: str | None) -> dict[str, str]:
    """The input's column for each one that the task reads: as given, or as the adapter's recipe names it."""
    from pefttune import store as room

    manifest = room.read_manifest(room.find(Path(store), name))
    inputs, renamed = manifest["inputs"], manifest["recipe"]["data"]["columns"]
    if given and len(inputs) > 1:
        raise InputError(f"--text-column: {name} reads {' and '.join(inputs)}; name the file's columns like that")
    return {column: given or renamed.get(column, column) for column in inputs}


def _text_rows(texts: list[str], inputs: list[str]) -> Rows:
    """A row for each text; for a task that reads several columns, one row of `column=text` each."""
    from pefttune.data import Row

    for number, text in enumerate(texts, start=1):
        if re.search("[\ud800-\udfff]", text):  # how Python shows bytes of an argument that are not text
            raise InputError(f"text {number} is not UTF-8")
    if len(inputs) == 1:
        rows = [{inputs[0]: text} for text in texts]
    else:
        pairs = [text.partition("=")[::2] for text in texts]
        rows = [dict(pairs)]
        if sorted(column for column, _ in pairs) != sorted(inputs):
            raise InputError("this adapter reads several columns: give " + example_texts(inputs))
    for number, values in enumerate(rows, start=1):
        yield values, Row(values, f"text {number}")


def _file_rows(file: Path, columns: dict[str, str]) -> Rows:
    from pefttune.data import Row, read_rows, take_columns
    from pefttune.data.columns import NoColumn
    from pefttune.data.faults import RowFault
    from pefttune.data.hints import unparted

    rows = read_rows(file)  # outside of the generator: a file that is not there is told at once

    def both() -> Rows:
        for row in rows:
            try:
                read = take_columns(row.values, tuple(columns), columns)
            except NoColumn as fault:
                there = ", ".join(row.values)
                raise DataError(
                    f"{row.origin}: there is no column {fault.column!r}, but {there}; name it with --text-column."
                    + unparted(list(row.values))
                ) from None
            except RowFault as fault:
                raise DataError(f"{row.origin}: {fault.column} {fault.message}") from None
            if taken := [name for name in PREDICTED if name in row.values]:
                raise DataError(f"{row.origin}: the column {taken[0]!r} would be overwritten; rename it")
            yield dict(row.values), Row(read, row.origin)

    return both()


def _predictions(session: Session, rows: Rows, more: dict[str, str]) -> Predicted:
    ahead, behind = tee(rows)  # the session reads a few hundred rows ahead, to batch texts of like length
    for (values, row), prediction in zip(behind, session.predict(row for _, row in ahead), strict=True):
        own = prediction.columns() | more
        if taken := [column for column in own if column in values]:
            raise DataError(f"{row.origin}: the column {taken[0]!r} would be overwritten; rename it")
        yield row, {**values, **own}, prediction


def evaluate(
    name: Name,
    data_file: Annotated[
        str | None, typer.Option("--data", help="A labelled file; by default the test rows of the adapter's recipe.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    may_differ: MayDiffer = None,
    as_json: Json = False,
) -> None:
    """Compare an adapter with its base on held-out rows."""
    allowed = checked_fields(may_differ)

    from pefttune import pipeline
    from pefttune.cli.progress import Display
    from pefttune.cli.report import print_changed, print_comparison

    with Display() as display:
        comparison = pipeline.evaluate(name, Path(store), data_file, base, display, allowed)
    tell_mismatch(name, comparison.base_mismatch)
    if as_json:
        print_json({"name": name, **asdict(comparison)})
        return
    rows = f"rows of {Path(data_file).name}" if data_file else "held-out rows"
    print_comparison(comparison, rows)
    print_changed(comparison)
