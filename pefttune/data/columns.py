"""From a source's columns to those of the task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pefttune.data.example import Row
from pefttune.data.faults import BadRow, OnBadRow, RowFault
from pefttune.data.forms import FORMS
from pefttune.data.hints import did_you_mean, listed, unparted
from pefttune.errors import DataError


class NoColumn(RowFault):
    """The row has a column of the task in no form. `help`, to follow the row's origin, says what there is instead."""

    def __init__(self, task: str, source: str, there: Sequence[str]) -> None:
        super().__init__(source, "is missing")
        forms = [form for form in FORMS.get(task, {}) if source == task and form != (task,)]
        others = [" and ".join(f"`{name}`" for name in form) for form in forms]
        self.help = (
            f"has no column `{source}`: there are {listed(there)}.{unparted(there)}{did_you_mean(source, there)} "
            f"Say which one is the task's `{task}` under `data.columns`"
            + (f", or give {', or '.join(others)} in its place." if others else ".")
        )


def column_sources(columns: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Task column → source column. Raises DataError when something is renamed that the task does not have."""
    for column in renamed:
        if column not in columns:
            raise DataError(
                f"`data.columns` names `{column}`, but the task's columns are {listed(columns)}."
                + did_you_mean(column, columns)
            )
    return {column: renamed.get(column, column) for column in columns}


def take_columns(values: Mapping[str, Any], columns: Sequence[str], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The task's columns out of one row of a source, each in the form that tasks read (`pefttune.data.forms`).

    `renamed` is a recipe's `data.columns`: task column → source column, also of columns that are not asked for. Raises
    RowFault, with the source's name of the column, for a value in no form that is known; NoColumn, which is a RowFault,
    for a column that is not there.
    """
    row = {name: value for name, value in values.items() if name not in renamed}
    row |= {task: values[source] for task, source in renamed.items() if source in values}
    try:
        return {column: _taken(row, column, renamed.get(column, column), list(values)) for column in columns}
    except NoColumn:
        raise
    except RowFault as fault:
        raise RowFault(renamed.get(fault.column or "", fault.column), fault.message) from None


def _taken(row: Mapping[str, Any], column: str, source: str, there: Sequence[str]) -> Any:
    forms = FORMS.get(column, {})
    if column in row or source != column:
        forms = {needed: form for needed, form in forms.items() if needed == (column,)}
    for needed, form in forms.items():
        if all(name in row for name in needed):
            return form(row)
    if column not in row:
        raise NoColumn(column, source, there)
    return row[column]


def mapped(rows: Iterable[Row], sources: Mapping[str, str], on_bad_row: OnBadRow) -> Iterator[Row]:
    """Rows with the task's columns only.

    A column that the first row lacks raises DataError; a later row that lacks one, or holds a value in no form that is
    known, goes to `on_bad_row`.
    """
    for number, row in enumerate(rows):
        try:
            yield Row(take_columns(row.values, tuple(sources), sources), row.origin)
        except RowFault as fault:
            if isinstance(fault, NoColumn) and number == 0:
                raise DataError(f"{row.origin} {fault.help}") from None
            on_bad_row(BadRow(row.origin, fault.column, fault.message))
