"""Is the adapter better than the base, and than always saying the commonest label? On the same rows, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

from pefttune.data import Row
from pefttune.evaluation.scoring import Scored


@dataclass(frozen=True)
class Difference:
    """Accuracy of the adapter minus that of another, paired by row.

    `low` and `high` bound it by the percentile bootstrap; `fixed` rows are right only with the adapter, `broken` ones
    only without; `mcnemar_p` is the exact two-sided probability of so uneven a split by chance.
    """

    against: str
    accuracy_there: float
    difference: float
    low: float
    high: float
    mcnemar_p: float
    fixed: int
    broken: int


@dataclass(frozen=True)
class ChangedRow:
    """A row on which base and adapter disagree and one of them is right."""

    text: str
    label: str
    base: str
    adapter: str


@dataclass(frozen=True)
class Comparison:
    """Base and adapter on the same rows; `confidence_level` is that of the intervals."""

    rows: int
    confidence_level: float
    base: dict[str, Any]
    adapter: dict[str, Any]
    against_base: Difference
    against_majority: Difference
    fixed: tuple[ChangedRow, ...]
    broken: tuple[ChangedRow, ...]

    def summary(self) -> dict[str, Any]:
        """All but the rows, JSON-able."""
        whole = asdict(self)
        return {key: value for key, value in whole.items() if key not in ("fixed", "broken")}


def compare(
    base: Scored, adapter: Scored, train: Sequence[Row], resamples: int, confidence: float, seed: int
) -> Comparison:
    """Compare two scorings of the same rows; `train` says which label is the commonest."""
    majority = Counter(row.values["label"] for row in train).most_common(1)[0][0]
    always = [row.values["label"] == majority for row in adapter.rows]

    def against(name: str, other: list[bool]) -> Difference:
        return paired_difference(name, adapter.correct, other, resamples, confidence, seed)

    changed = [
        (right, ChangedRow(row.values["text"], row.values["label"], before.label, after.label))
        for row, before, after, was, right in zip(
            adapter.rows, base.predictions, adapter.predictions, base.correct, adapter.correct, strict=True
        )
        if was != right
    ]
    return Comparison(
        rows=len(adapter.rows),
        confidence_level=confidence,
        base=base.metrics,
        adapter=adapter.metrics,
        against_base=against("base, zero-shot", base.correct),
        against_majority=against(f"always {majority!r}", always),
        fixed=tuple(row for right, row in changed if right),
        broken=tuple(row for right, row in changed if not right),
    )


def paired_difference(
    name: str, ours: Sequence[bool], theirs: Sequence[bool], resamples: int, confidence: float, seed: int
) -> Difference:
    """The difference of two accuracies on the same rows, with its interval and McNemar's exact test."""
    gains = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    fixed, broken = int((gains > 0).sum()), int((gains < 0).sum())
    if (gains == gains[0]).all():  # every resample is the same: the interval is a point (also that of a single row)
        low = high = float(gains[0])
    else:
        interval = bootstrap(
            (gains,),
            np.mean,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
            batch=100,  # memory: 100 resamples at a time
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    p = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    return Difference(name, float(np.mean(theirs)), float(gains.mean()), low, high, float(p), fixed, broken)
