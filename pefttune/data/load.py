"""Read → check → split: the rows of a recipe, before gigabytes of weights are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from pefttune.data.bins import LABEL, bin_of
from pefttune.data.columns import column_sources, mapped
from pefttune.data.config import DataConfig, SplitConfig
from pefttune.data.content import fingerprint
from pefttune.data.dataset import DataReport, Dataset
from pefttune.data.example import Row
from pefttune.data.faults import BadRow, BadRows, RowFault, RowMended
from pefttune.data.hints import listed
from pefttune.data.sources import Sources, open_sources, read_source
from pefttune.data.splits import Keyed, divide, divide_whole, duplicates_in, keyed, limit, without
from pefttune.errors import DataError

Check = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_Parts = dict[str, list[Keyed]]


def load(
    config: DataConfig, columns: Sequence[str], inputs: Sequence[str], check: Check, together: Sequence[str] = ()
) -> Dataset:
    """The rows that the recipe's `data` section asks for, checked and divided.

    `columns` are the task's columns and `inputs` those that the model reads, by which rows are divided and compared.
    Rows with the same values in the columns `together` are never divided. `check` returns a row's values as the task
    wants them or raises RowFault or RowMended. Raises DataError for whatever is wrong with the data, FetchError or
    StorageError when a data set of the catalogue cannot be had.
    """
    checking = _Checking(config, columns, check)
    sources = open_sources(config, checking.bad.add)
    read = {part: keyed(chain.from_iterable(map(checking.good, each)), inputs) for part, each in sources.rows.items()}
    checking.bad.stop_if_too_many()
    divided = _divided(read, config.split, together)
    apart = _apart(divided)
    parts = _limited(apart, config)
    report = _report(sources, checking, divided, apart, parts)
    kept_together = tuple(together) if read.keys() == {"train"} else ()  # a part of its own file may share them
    _refuse_empty(report, own=set(read), together=kept_together)
    rows = {part: tuple(item.row for item in items) for part, items in parts.items()}
    return Dataset(**rows, report=report, kept_together=kept_together)


def load_file(source: str, config: DataConfig, columns: Sequence[str], check: Check) -> tuple[Row, ...]:
    """All rows of one labelled file or data set of the catalogue, checked as `load` does and not divided.

    Raises DataError, also when no row is left.
    """
    checking = _Checking(config, columns, check)
    rows = tuple(checking.good(read_source(source, config, checking.bad.add)))
    checking.bad.stop_if_too_many()
    if not rows:
        left_out, broken = checking.left_out, checking.bad.total
        raise DataError(f"{source}: no row is left: {left_out} lie in no bin of `data.label_bins`, {broken} are broken")
    return rows


class _Checking:
    """Gives rows the task's columns, names their label by its bin, and has the task check them; counts the others."""

    def __init__(self, config: DataConfig, columns: Sequence[str], check: Check) -> None:
        self.columns = column_sources(columns, config.columns)
        self.bins = config.label_bins or {}
        self.check = check
        self.bad = BadRows(config.max_bad_rows)
        self.mended = BadRows(0)
        self.left_out = 0
        if self.bins and LABEL not in columns:
            raise DataError(f"`data.label_bins` is set, but the task has no `{LABEL}`, only {listed(columns)}")

    def good(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in mapped(rows, self.columns, self.bad.add):
            try:
                values = self._binned(row.values)
                checked = None if values is None else self.check(values)
            except RowFault as fault:
                self.bad.add(BadRow(row.origin, self.columns.get(fault.column or "", fault.column), fault.message))
                continue
            except RowMended as mended:
                self.mended.add(BadRow(row.origin, self.columns[mended.column], mended.message))
                checked = mended.values
            if checked is None:
                self.left_out += 1
            else:
                yield Row(checked, row.origin)

    def _binned(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not self.bins:
            return values
        name = bin_of(values[LABEL], self.bins)
        return None if name is None else {**values, LABEL: name}


def _divided(read: _Parts, split: SplitConfig, together: Sequence[str]) -> _Parts:
    """All three parts: those without a source of their own are split off `train`."""
    validation = 0 if "validation" in read else split.validation
    test = 0 if "test" in read else split.test
    if together:
        parts = divide_whole(read["train"], together, validation=validation, test=test)
    else:
        parts = divide(read["train"], validation=validation, test=test)
    return {part: read[part] if part in read and part != "train" else rows for part, rows in parts.items()}


def _apart(parts: _Parts) -> _Parts:
    """No row of `train` or `validation` that is in the test as well, and none of `train` that is in `validation`."""
    held_out = [*parts["validation"], *parts["test"]]
    return {
        "train": without(parts["train"], held_out),
        "validation": without(parts["validation"], parts["test"]),
        "test": parts["test"],
    }


def _limited(parts: _Parts, config: DataConfig) -> _Parts:
    return {
        "train": limit(parts["train"], config.max_train_samples),
        "validation": limit(parts["validation"], config.max_eval_samples),
        "test": limit(parts["test"], config.max_test_samples),
    }


def _report(sources: Sources, checking: _Checking, divided: _Parts, apart: _Parts, parts: _Parts) -> DataReport:
    return DataReport(
        source=sources.name,
        rows={part: len(rows) for part, rows in parts.items()},
        left_out_by_bins=checking.left_out,
        bad_rows=tuple(checking.bad.named),
        mended=checking.mended.total,
        mended_rows=tuple(checking.mended.named),
        duplicates_removed={part: len(divided[part]) - len(apart[part]) for part in ("train", "validation")},
        duplicates_inside={part: duplicates_in(rows) for part, rows in parts.items()},
        fingerprints={part: fingerprint(item.row for item in rows) for part, rows in parts.items()},
        title=" + ".join(entry.title for entry in sources.entries) or None,
        licence=" + ".join(dict.fromkeys(entry.licence for entry in sources.entries)) or None,
    )


def _refuse_empty(report: DataReport, own: set[str], together: Sequence[str]) -> None:
    whole = f" Rows with the same {' and '.join(together)} stay in one part." if together else ""
    for part, count in report.rows.items():
        if count == 0:
            mend = (
                "Give more rows"
                if part in own
                else f"Raise `data.split.{part}`, name a source as `data.{part}`, or give more rows"
            )
            raise DataError(
                f"No rows are left for {part} (rows: {report.rows}; left out by `data.label_bins`: "
                f"{report.left_out_by_bins}; broken: {len(report.bad_rows)}; removed from {part} because they are in a "
                f"part held out as well: {report.duplicates_removed.get(part, 0)}).{whole} {mend}."
            )
