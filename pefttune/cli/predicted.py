"""Where predictions go: into a file of rows, onto a page, or to stdout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pefttune.cli.output import counted, err, out, to_json
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.data import Row
    from pefttune.tasks import Prediction

Predicted = Iterator[tuple["Row", dict[str, Any], "Prediction"]]
"""Each row, what it becomes in a file, and what the adapter says of it."""
PAGE = ".html"


def check_file(file: Path) -> None:
    """Raise DataError or InputError where rows or predictions cannot go into a file of that name."""
    from pefttune.data.writers import format_to_write

    if file.suffix != PAGE:
        format_to_write(file)
    if file.is_dir():
        raise InputError(f"--output {file} is a folder: name a file")


def write_file(file: Path, name: str, predicted: Predicted) -> None:
    """Write what the adapter `name` predicts, as the file's name says, and tell where it is."""
    from pefttune.data import write_rows

    if file.suffix == PAGE:
        _write_page(file, name, predicted)
    else:
        write_rows(file, counted(values for _, values, _ in predicted))
    err.print(f"written: {file}", soft_wrap=True)


def _write_page(file: Path, name: str, predicted: Predicted) -> None:
    from pefttune.data.storage import replacing
    from pefttune.evaluation.report.predictions import predictions_page

    with replacing(file) as page:
        for part in predictions_page(name, counted((row, prediction) for row, _, prediction in predicted)):
            page.write(part.encode())


def print_rows(predicted: Predicted) -> None:
    """Each row with its prediction, a line of JSON."""
    for _, values, _ in predicted:
        out.print(to_json(values), soft_wrap=True)


def print_drawn(predicted: Predicted) -> None:
    """Each prediction with its text, in which what was found is marked."""
    for row, _, prediction in predicted:
        out.print(_drawn(row, prediction), soft_wrap=True)


def _drawn(row: Row, prediction: Prediction) -> Text:
    sure = "" if math.isnan(prediction.confidence) else f" {prediction.confidence:.3f}"
    line = Text(f"{prediction!s:12}{sure}  ")
    for piece in prediction.pieces(row):
        line.append(f"[{piece.text}]{piece.tag}" if piece.tag else piece.text, "bold" if piece.tag else "")
    return line.append("  (too long: its end was not read)" if prediction.truncated else "")
