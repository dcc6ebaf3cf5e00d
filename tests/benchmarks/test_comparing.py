"""Medians, ratios, and what may not be compared."""

from __future__ import annotations

import pytest

from benchmarks.comparing import Ratio, check_same_start, ratio, seconds_per_step
from benchmarks.errors import BenchmarkError
from benchmarks.job import Result


def result(loss: float = 2.0, labelled: int = 8) -> Result:
    return Result([9.0, 1.0, 2.0], 0.0, 0.0, {}, losses=[loss], labelled=[labelled])


def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    assert ratio([1.0, 2.0, 4.0], [6.0, 4.0, 4.0]) == Ratio(median=2.0, lowest=1.0, highest=6.0)


def test_pairs_belong_together() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_warmup_is_left_out() -> None:
    assert seconds_per_step(result(), warmup=1) == 1.5


def test_bfloat16_noise_is_let_through() -> None:
    check_same_start(result(2.0), result(2.03))


@pytest.mark.parametrize("other", [result(2.2), result(1.8), result(float("nan")), result(labelled=9)])
def test_nothing_is_told_of_two_different_losses(other: Result) -> None:
    with pytest.raises(BenchmarkError, match="no ratio is told"):
        check_same_start(result(), other)
