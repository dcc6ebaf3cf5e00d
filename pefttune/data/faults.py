"""What is wrong with one row, or with the names of all columns. Whether a row stops the run is decided by whoever reads
the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttune.data.hints import listed
from pefttune.errors import DataError

SHOWN = 10  # broken rows that an error message lists


class RowFault(Exception):  # noqa: N818 - never reaches a user
    """Raised by a task's `check` for one row; `load` counts it, so a user never meets it as an error of its own."""

    def __init__(self, column: str | None, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


class RowMended(Exception):  # noqa: N818 - never reaches a user
    """Raised by a task's `check` for one row with a fault that it could mend; `load` takes the `values` and counts it.

    Only what a prediction does not need can be mended.
    """

    def __init__(self, column: str, message: str, values: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.column, self.message, self.values = column, message, values


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it stands, which column, and why."""

    origin: str
    column: str | None
    message: str

    def __str__(self) -> str:
        place = f"{self.origin}, column `{self.column}`" if self.column is not None else self.origin
        return f"{place}: {self.message}"


OnBadRow = Callable[[BadRow], None]


def refuse(bad: BadRow) -> None:
    """Stop at the first bad row. Raises DataError."""
    raise DataError(str(bad))


class BadRows:
    """Collects bad rows, of which `allowed` may be skipped."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.total = 0
        self.named: list[BadRow] = []

    def add(self, bad: BadRow) -> None:
        """Count a bad row, and keep it while it may still be shown or reported."""
        self.total += 1
        if len(self.named) < max(self.allowed, SHOWN):
            self.named.append(bad)

    def stop_if_too_many(self) -> None:
        """Raises DataError with the first bad rows and their number when there are more than allowed."""
        if self.total <= self.allowed:
            return
        lines = [f"  {bad}" for bad in self.named[:SHOWN]]
        if self.total > SHOWN:
            lines.append(f"  and {self.total - SHOWN} more")
        rows = "1 row is" if self.total == 1 else f"{self.total} rows are"
        raise DataError(
            f"{rows} broken, and `data.max_bad_rows` lets {self.allowed} be skipped:\n"
            + "\n".join(lines)
            + "\nMend them, or raise `data.max_bad_rows`."
        )


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise DataError for names of columns that hold a NUL or stand twice."""
    if any("\0" in name for name in names):
        raise DataError(f"{path}: a NUL character in a column's name; is this a text file, saved as UTF-8?")
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: more than one column is called {listed(duplicates)}")
