"""Is the adapter better than the base, and than what any model must beat? On the same rows, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest

from pefttune.bases import Mismatch
from pefttune.evaluation.scoring import Scored
from pefttune.tasks import Task

WITH_ADAPTER = "with adapter"
RESAMPLES_AT_ONCE = 100  # memory: so many times the number of rows
FEWEST = 6  # rows that differ, below which no sign test comes to p < 0.05, and of which a bootstrap knows too little
Primary = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """The primary metric of the adapter minus that of another, `there`, on the same rows.

    `low` and `high` bound it by the paired percentile bootstrap over rows; `fixed` rows are better with the adapter,
    `broken` ones worse; `sign_test_p` is the exact two-sided probability of so uneven a split by chance (where rows are
    right or wrong, McNemar's exact test).
    """

    against: str
    there: float
    difference: float
    low: float
    high: float
    sign_test_p: float
    fixed: int
    broken: int

    @property
    def judgement(self) -> str:
        """`better` or `worse` where the interval leaves out zero and enough rows differ, else `unclear`."""
        if self.fixed + self.broken < FEWEST:
            return "unclear"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


@dataclass(frozen=True)
class ChangedRow:
    """A row that the adapter predicts better or worse than the one it is compared with first."""

    text: str
    reference: str
    other: str
    adapter: str


@dataclass(frozen=True)
class Comparison:
    """An adapter beside its base, asked zero-shot where that can be, and a baseline, on the same rows.

    `adapter` and `others` are their metrics, those of others by who they are; `shown` says which are shown and how they
    are called; `primary` is the one by which they are compared, `confidence_level` that of the intervals.
    """

    rows: int
    confidence_level: float
    primary: str
    shown: dict[str, str]
    adapter: dict[str, Any]
    others: dict[str, dict[str, Any]]
    differences: tuple[Difference, ...]
    fixed: tuple[ChangedRow, ...]
    broken: tuple[ChangedRow, ...]
    base_mismatch: Mismatch = field(default_factory=dict)
    """How the base differs from the one that the adapter was trained on, where it was asked for all the same."""

    @property
    def everybody(self) -> dict[str, dict[str, Any]]:
        """The metrics of others, then those of the adapter, by who they are."""
        return {**self.others, WITH_ADAPTER: self.adapter}

    def summary(self) -> dict[str, Any]:
        """All that a training tells but the rows, JSON-able."""
        whole = asdict(self)
        return {key: value for key, value in whole.items() if key not in ("fixed", "broken", "base_mismatch")}


def compare(
    task: Task, adapter: Scored, others: Sequence[Scored], resamples: int, confidence: float, seed: int
) -> Comparison:
    """Compare the adapter with each of `others`, of which there is at least one; rows that changed are those of the
    first."""
    differences = [
        paired_difference(other.name, adapter.tallies, other.tallies, task.primary_of, resamples, confidence, seed)
        for other in others
    ]
    gains = task.primary_of(adapter.tallies) - task.primary_of(others[0].tallies)
    changed = [
        ChangedRow("".join(piece.text for piece in after.pieces(row)), task.reference(row), str(before), str(after))
        for row, before, after in zip(adapter.rows, others[0].predictions, adapter.predictions, strict=True)
    ]
    return Comparison(
        rows=len(adapter.rows),
        confidence_level=confidence,
        primary=next(iter(task.shown)),
        shown=dict(task.shown),
        adapter=adapter.metrics,
        others={other.name: other.metrics for other in others},
        differences=tuple(differences),
        fixed=tuple(row for row, gain in zip(changed, gains, strict=True) if gain > 0),
        broken=tuple(row for row, gain in zip(changed, gains, strict=True) if gain < 0),
    )


def paired_difference(
    name: str, ours: np.ndarray, theirs: np.ndarray, primary: Primary, resamples: int, confidence: float, seed: int
) -> Difference:
    """The difference of two primary metrics on the same rows, from their tallies (rows, K), with its interval and the
    exact sign test."""
    gains = primary(ours) - primary(theirs)
    fixed, broken = int((gains > 0).sum()), int((gains < 0).sum())
    there = float(primary(theirs.sum(0)))
    difference = float(primary(ours.sum(0))) - there
    low, high = _bounds(
        lambda times: primary(times @ ours) - primary(times @ theirs), len(ours), resamples, confidence, seed
    )
    p = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    return Difference(name, there, difference, low, high, float(p), fixed, broken)


def interval(
    tallies: np.ndarray, primary: Primary, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Low and high bound of a primary metric, from its tallies (rows, K), by the percentile bootstrap over rows."""
    return _bounds(lambda times: primary(times @ tallies), len(tallies), resamples, confidence, seed)


def _bounds(
    statistic: Callable[[np.ndarray], np.ndarray], rows: int, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """The percentile interval of a statistic of how many times each row is drawn (resamples, rows)."""
    rng, parts = np.random.default_rng(seed), []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        parts.append(statistic(rng.multinomial(rows, np.full(rows, 1 / rows), size=size).astype(float)))
    low, high = np.quantile(np.concatenate(parts), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
