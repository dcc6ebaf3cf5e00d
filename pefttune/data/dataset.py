"""What `load` gives: the rows of each part, and a report of what was done to get them."""

from __future__ import annotations

from dataclasses import dataclass

from pefttune.data.example import Row
from pefttune.data.faults import BadRow


@dataclass(frozen=True)
class DataReport:
    """What came of the data. `dataclasses.asdict` makes JSON of it; dictionaries go by part (`train`, …)."""

    source: str
    rows: dict[str, int]
    left_out_by_bins: int
    bad_rows: tuple[BadRow, ...]
    mended: int
    """Rows with a fault that the task could mend; `mended_rows` names the first of them."""
    mended_rows: tuple[BadRow, ...]
    duplicates_removed: dict[str, int]
    duplicates_inside: dict[str, int]
    fingerprints: dict[str, str]
    title: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The rows to train on, to watch training with, and for the final comparison; none is empty."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    report: DataReport
    kept_together: tuple[str, ...] = ()
    """The columns whose equal values were kept in one part, where all parts were split off one source."""
