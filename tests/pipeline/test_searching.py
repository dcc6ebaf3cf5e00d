"""The weights of a merge: few are tried, the mean counts, and no task may drop too far."""

from __future__ import annotations

import pytest

from pefttune.pipeline.searching import Weights, search


def bowl(*best: float) -> tuple[list[Weights], object]:
    """A measure that falls with the distance from the best weights, one task for each; and what it was asked."""
    asked: list[Weights] = []

    def measure(weights: Weights) -> list[float]:
        asked.append(weights)
        return [1 - abs(weight - wanted) for weight, wanted in zip(weights, best, strict=True)]

    return asked, measure


def test_it_comes_near_the_best_and_asks_nothing_twice() -> None:
    asked, measure = bowl(0.9, 0.3)
    found = search(measure, [1.0, 1.0], 1.0, 100)
    assert found.weights == pytest.approx((0.9, 0.3), abs=0.02)
    assert asked[0] == (0.5, 0.5)
    assert len(asked) == len(set(asked)) < 40


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_it_never_tries_more_than_it_may(steps: int) -> None:
    asked, measure = bowl(0.9, 0.1, 0.4)
    search(measure, [1.0] * 3, 1.0, steps)
    assert len(asked) == steps


def test_weights_never_go_below_zero_nor_all_to_it() -> None:
    asked, measure = bowl(-1.0, -1.0)
    search(measure, [1.0, 1.0], 1.0, 100)
    assert all(min(weights) >= 0 and any(weights) for weights in asked)


def test_a_better_mean_does_not_pay_for_a_drop_of_one_task() -> None:
    def measure(weights: Weights) -> list[float]:
        return [0.9 - 0.4 * abs(weights[0] - 0.5), 2 * weights[0]]

    free = search(measure, [0.9, 0.0], 1.0, 100)
    bound = search(measure, [0.9, 0.0], 0.02, 100)
    assert free.largest_drop([0.9, 0.0]) > 0.02
    assert bound.largest_drop([0.9, 0.0]) <= 0.02 + 1e-9
    assert sum(bound.metrics) < sum(free.metrics)
    assert bound.is_within([0.9, 0.0], 0.02)
    assert not free.is_within([0.9, 0.0], 0.02)
