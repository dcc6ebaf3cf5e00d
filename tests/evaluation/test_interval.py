"""The interval of one metric: what can be worked out exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from pefttune.evaluation import interval


def share(tallies: np.ndarray) -> Any:
    return tallies[..., 0] / tallies[..., 1]


def tallies_of(right: int, rows: int) -> np.ndarray:
    return np.array([[i < right, 1] for i in range(rows)], float)


def test_it_is_that_of_drawing_rows_anew() -> None:
    # Seven of ten rows are right: a resample of ten has a binomial number of right ones.
    low, high = binom.ppf([0.075, 0.925], 10, 0.7) / 10
    # Both tails lie 0.02 or more from the next tenth, five standard errors of 5000 resamples.
    assert interval(tallies_of(7, 10), share, 5000, 0.85, 1) == (pytest.approx(low), pytest.approx(high))


def test_the_same_seed_gives_the_same_bounds() -> None:
    assert interval(tallies_of(30, 77), share, 250, 0.95, 3) == interval(tallies_of(30, 77), share, 250, 0.95, 3)
    assert interval(tallies_of(30, 77), share, 250, 0.95, 3) != interval(tallies_of(30, 77), share, 250, 0.95, 4)


@pytest.mark.parametrize(("right", "bound"), [(0, 0.0), (5, 1.0)])
def test_rows_that_are_all_alike_leave_no_doubt(right: int, bound: float) -> None:
    assert interval(tallies_of(right, 5), share, 100, 0.95, 0) == (bound, bound)
