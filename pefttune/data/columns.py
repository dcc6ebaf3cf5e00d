"""From a source's columns to those of the task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pefttune.data.example import Row
from pefttune.data.faults import BadRow, OnBadRow
from pefttune.data.hints import did_you_mean, listed
from pefttune.errors import DataError


def column_sources(columns: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Task column → source column. Raises DataError when something is renamed that the task does not have."""
    for column in renamed:
        if column not in columns:
            raise DataError(
                f"`data.columns` names `{column}`, but the task's columns are {listed(columns)}."
                + did_you_mean(column, columns)
            )
    return {column: renamed.get(column, column) for column in columns}


def mapped(rows: Iterable[Row], sources: Mapping[str, str], on_bad_row: OnBadRow) -> Iterator[Row]:
    """Rows with the task's columns only.

    A column that the first row lacks raises DataError; a later row that lacks one goes to `on_bad_row`.
    """
    first = True
    for row in rows:
        missing = next(((task, source) for task, source in sources.items() if source not in row.values), None)
        if missing is None:
            yield Row({task: row.values[source] for task, source in sources.items()}, row.origin)
        elif first:
            raise _no_column(row, *missing)
        else:
            on_bad_row(BadRow(row.origin, missing[1], "is missing"))
        first = False


def _no_column(row: Row, task: str, source: str) -> DataError:
    there = list(row.values)
    return DataError(
        f"{row.origin} has no column `{source}`: there are {listed(there)}.{did_you_mean(source, there)} "
        f"Say which one is the task's `{task}` under `data.columns`."
    )
