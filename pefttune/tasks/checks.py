"""What several tasks ask of a row's values."""

from __future__ import annotations

import math
from typing import Any

from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened
from pefttune.errors import DataError


def checked_text(value: Any, column: str = "text") -> str:
    """The text without space around it. Raises RowFault when there is none."""
    if not isinstance(value, str):
        raise RowFault(column, f"is {type(value).__name__}, not text")
    if not (text := value.strip()):
        raise RowFault(column, "is empty")
    return text


def checked_label(value: Any) -> str:
    """The name of a class: text without space around it, or a number. Raises RowFault for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with one missing holds floats
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowFault("label", "is empty")
    if not isinstance(value, str | int | float):
        raise RowFault("label", f"must be text or a number, not {shortened(value)}")
    if not (label := str(value).strip()):
        raise RowFault("label", "is empty")
    return label


def checked_row_text(row: Row, column: str) -> str:
    """The text in a row's column. Raises DataError when there is none."""
    if column not in row.values:
        there = ", ".join(row.values)
        raise DataError(f"{row.origin}: there is no column {column!r}, but {there}; name it with --text-column")
    try:
        return checked_text(row.values[column], column)
    except RowFault as fault:
        raise DataError(f"{row.origin}: {fault.column} {fault.message}") from None
