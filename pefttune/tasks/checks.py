"""What several tasks ask of a row's values."""

from __future__ import annotations

from typing import Any

from pefttune.data.faults import RowFault


def checked_text(value: Any, column: str = "text") -> str:
    """The text without space around it. Raises RowFault when there is none."""
    if not isinstance(value, str):
        raise RowFault(column, f"is {type(value).__name__}, not text")
    if not (text := value.strip()):
        raise RowFault(column, "is empty")
    return text
