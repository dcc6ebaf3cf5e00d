"""What several tasks ask of a row's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from datetime import date
from decimal import Decimal
from typing import Any

from pefttune.data import Row
from pefttune.data.faults import SHOWN, RowFault
from pefttune.data.hints import shortened, unparted
from pefttune.data.text import is_blank
from pefttune.errors import DataError

NAMED = 3  # rows of each kind that a message names


def checked_text(value: Any, column: str = "text") -> str:
    """The text without space around it. Raises RowFault when there is none."""
    if not isinstance(value, str):
        raise RowFault(column, f"is {type(value).__name__}, not text")
    if is_blank(value):
        raise RowFault(column, "is empty")
    return value.strip()


def checked_label(value: Any, labels: Collection[str]) -> str:
    """The name of a class, one of `labels` if there are any: text without space around it, a number or a day. Raises
    RowFault for anything else."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowFault("label", "is empty")
    if (written := str(value)) in labels:
        return written
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with one missing holds floats
    if not isinstance(value, str | int | float | Decimal | date):
        raise RowFault("label", f"must be text or a number, not {shortened(value)}")
    if is_blank(label := str(value)):
        raise RowFault("label", "is empty")
    return label.strip()


def checked_row_text(row: Row, column: str) -> str:
    """The text in a row's column. Raises DataError when there is none."""
    if column not in row.values:
        raise DataError(
            f"{row.origin}: there is no column {column!r}, but {', '.join(row.values)}; name it with --text-column."
            + unparted(list(row.values))
        )
    try:
        return checked_text(row.values[column], column)
    except RowFault as fault:
        raise DataError(f"{row.origin}: {fault.column} {fault.message}") from None


def refuse_unlearned(
    column: str, kinds: Callable[[Row], Iterable[str]], train: Iterable[Row], held_out: Iterable[Row]
) -> None:
    """Raises DataError for held-out rows that hold a kind (a label, a kind of entities) which no training row has."""
    learned = {kind for row in train for kind in kinds(row)}
    strange: dict[str, list[str]] = {}
    for row in held_out:
        for kind in sorted({*kinds(row)} - learned):
            strange.setdefault(kind, []).append(row.origin)
    if not strange:
        return
    lines = [
        f"  {kind!r} in {', '.join(own[:NAMED])}{' …' if len(own) > NAMED else ''}" for kind, own in strange.items()
    ]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"  and {len(lines) - SHOWN} more"]
    rows = len({origin for own in strange.values() for origin in own})
    raise DataError(
        f"{rows} held-out {'row has' if rows == 1 else 'rows have'} in the task's column `{column}` what no training "
        "row has, so that it could never be predicted:\n"
        + "\n".join(lines)
        + "\nGive training rows of it, leave these rows out, or divide the rows yourself "
        "and name the files as data.train, data.validation and data.test."
    )
