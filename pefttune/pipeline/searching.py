"""Weights of a merge, sought on development rows: few are tried, each is judged on all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

Weights = tuple[float, ...]
SMALLEST_MOVE = 0.02
ROUNDING = 1e-9  # of a difference of two metrics, which must not count as a drop


@dataclass(frozen=True)
class Tried:
    """Weights, and the metric of each task with them."""

    weights: Weights
    metrics: tuple[float, ...]

    def largest_drop(self, own: Sequence[float]) -> float:
        """By how much the task that lost most is below its own adapter's metric."""
        return max(alone - merged for alone, merged in zip(own, self.metrics, strict=True))

    def is_within(self, own: Sequence[float], max_drop: float) -> bool:
        """Whether no task drops by more than that."""
        return self.largest_drop(own) <= max_drop + ROUNDING

    def rank(self, own: Sequence[float], max_drop: float) -> tuple[float, float]:
        """Greater is better: first no task drops by more than `max_drop`, then the mean over the tasks."""
        over = 0.0 if self.is_within(own, max_drop) else self.largest_drop(own)
        return -over, sum(self.metrics) / len(self.metrics)


def search(measure: Callable[[Weights], Sequence[float]], own: Sequence[float], max_drop: float, steps: int) -> Tried:
    """The best of at most `steps` weights: a pattern search, one weight at a time, from equal ones.

    A weight is moved up or down by 1 / n, and wherever that is better the search goes on from there; where no move is,
    moves are halved. `own` are the metrics of each adapter alone on its task.
    """
    n = len(own)
    tried: dict[Weights, Tried] = {}

    def judged(weights: Weights) -> Tried:
        if weights not in tried:
            tried[weights] = Tried(weights, tuple(measure(weights)))
        return tried[weights]

    best, move = judged((round(1 / n, 4),) * n), 1 / n
    while move >= SMALLEST_MOVE:
        before = best
        for index, sign in product(range(n), (1, -1)):
            weights = _moved(best.weights, index, sign * move)
            if not any(weights) or (len(tried) >= steps and weights not in tried):
                continue
            best = max(best, judged(weights), key=lambda one: one.rank(own, max_drop))
        if best is before:
            move /= 2
    return best


def _moved(weights: Weights, index: int, by: float) -> Weights:
    """None is ever below 0."""
    return tuple(round(max(0.0, one + by * (i == index)), 4) for i, one in enumerate(weights))
