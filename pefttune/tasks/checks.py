"""What several tasks ask of a row's values."""

from __future__ import annotations

from typing import Any

from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.errors import DataError


def checked_text(value: Any, column: str = "text") -> str:
    """The text without space around it. Raises RowFault when there is none."""
    if not isinstance(value, str):
        raise RowFault(column, f"is {type(value).__name__}, not text")
    if not (text := value.strip()):
        raise RowFault(column, "is empty")
    return text


def checked_row_text(row: Row, column: str) -> str:
    """The text in a row's column. Raises DataError when there is none."""
    if column not in row.values:
        there = ", ".join(row.values)
        raise DataError(f"{row.origin}: there is no column {column!r}, but {there}; name it with --text-column")
    try:
        return checked_text(row.values[column], column)
    except RowFault as fault:
        raise DataError(f"{row.origin}: {fault.column} {fault.message}") from None
