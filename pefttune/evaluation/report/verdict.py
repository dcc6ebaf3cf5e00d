"""Is the adapter better? In plain sentences, the same for every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pefttune.evaluation.compare import WITH_ADAPTER, Comparison, Difference
from pefttune.evaluation.report.wording import amount, bounds, level, percent, points

WORDS = {"better": "clearly better than", "unclear": "not clearly better than", "worse": "worse than"}
"""How the adapter stands to another, from the best to the worst."""


@dataclass(frozen=True)
class Verdict:
    """A headline, the sentences that bear it out, and the worst of the judgements in it."""

    tone: str
    headline: str
    sentences: tuple[str, ...]


def verdict(comparison: Comparison, intervals: Mapping[str, tuple[float, float]]) -> Verdict:
    """What comes of all differences; the last is that to the baseline."""
    judged = [(difference.judgement, _told(comparison, difference)) for difference in comparison.differences]
    groups = {kind: [name for found, name in judged if found == kind] for kind in WORDS}
    headline = "; ".join(f"{WORDS[kind]} {' and '.join(names)}" for kind, names in groups.items() if names)
    reached = f"{percent(comparison.adapter[comparison.primary])} {comparison.shown[comparison.primary]}"
    sure, own = level(comparison.confidence_level), bounds(*intervals[WITH_ADAPTER])
    gaps = [_gap(difference, _told(comparison, difference), sure) for difference in comparison.differences]
    sentences = [
        f"On {amount(comparison.rows)} held-out rows the adapter reaches {reached} ({sure} interval {own}).",
        f"That is {' and '.join(gaps)}.",
    ]
    tone = [kind for kind in WORDS if groups[kind]][-1]
    return Verdict(tone, headline[0].upper() + headline[1:], tuple(sentences))


def _told(comparison: Comparison, difference: Difference) -> str:
    baseline = difference is comparison.differences[-1]
    return f"the baseline ({difference.against})" if baseline else f"the {difference.against}"


def _gap(difference: Difference, told: str, sure: str) -> str:
    gap = f"{abs(100 * difference.difference):.1f} points {'above' if difference.difference >= 0 else 'below'} {told}"
    span = f"{sure} interval {points(difference.low)} to {points(difference.high)} points"
    if difference.judgement != "unclear":
        return f"{gap} ({span})"
    if difference.low <= 0 <= difference.high:
        return f"{gap} ({span}, which holds zero)"
    return f"{gap} ({span}, but of too few rows that differ)"
