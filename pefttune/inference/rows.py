"""From what a caller gives as a row to the row that a task reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pefttune import tasks
from pefttune.data import Row, take_columns
from pefttune.data.columns import NoColumn
from pefttune.data.faults import RowFault
from pefttune.errors import DataError

AnyRow = Row | Mapping[str, Any] | str


def as_row(row: AnyRow, task: tasks.Task, number: int) -> Row:
    """The row's columns that the task reads, checked; `number` counts the rows of the call. Raises DataError."""
    if isinstance(row, str):
        if len(task.inputs) > 1:
            raise DataError(f"text {number}: {task.name} reads {' and '.join(task.inputs)}: give a mapping with both")
        row = {task.inputs[0]: row}
    if not isinstance(row, Row | Mapping):
        raise DataError(
            f"text {number}: a row is {type(row).__name__}; give a text or a mapping with {' and '.join(task.inputs)}"
        )
    named = row if isinstance(row, Row) else Row({str(key): value for key, value in row.items()}, f"text {number}")
    try:
        return Row(task.check(take_columns(named.values, task.inputs, {})), named.origin)
    except NoColumn as fault:
        there = ", ".join(named.values) or "none"
        raise DataError(f"{named.origin}: there is no column {fault.column!r}, but {there}") from None
    except RowFault as fault:
        raise DataError(f"{named.origin}: {fault.column} {fault.message}") from None
