"""Base against adapter: numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pefttune.data import Row
from pefttune.evaluation import Scored, compare, paired_difference
from pefttune.tasks import Prediction

# Ten rows: both right on three, only ours on five, only theirs on one, neither on one.
OURS = [True] * 3 + [True] * 5 + [False] * 2
THEIRS = [True] * 3 + [False] * 5 + [True, False]


def test_a_difference_by_hand() -> None:
    found = paired_difference("base", OURS, THEIRS, resamples=2000, confidence=0.95, seed=0)
    assert (found.fixed, found.broken) == (5, 1)
    assert found.accuracy_there == 0.4
    assert found.difference == pytest.approx(0.4)  # (5 - 1) / 10
    # McNemar, exact: of six rows that differ, five or more on one side, either side.
    assert found.mcnemar_p == pytest.approx(2 * (6 + 1) / 2**6)
    assert found.low <= found.difference <= found.high


def test_the_interval_is_that_of_resampled_rows() -> None:
    # A resampled row loses with 0.1, is as before with 0.4, gains with 0.5. The sum of ten, exactly:
    chances = np.ones(1)
    for _ in range(10):
        chances = np.convolve(chances, [0.1, 0.4, 0.5])
    below = np.cumsum(chances)
    low, high = (int(np.searchsorted(below, tail)) / 10 - 1 for tail in (0.075, 0.925))
    found = paired_difference("base", OURS, THEIRS, resamples=5000, confidence=0.85, seed=1)
    # Both tails lie 0.02 from the next tenth, six standard errors of 5000 resamples.
    assert (
        (found.low, found.high) == (pytest.approx(low), pytest.approx(high)) == (pytest.approx(0.1), pytest.approx(0.7))
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (list(rng.random(50) < share) for share in (0.7, 0.5))
    one, same, other = (paired_difference("x", ours, theirs, 200, 0.95, seed) for seed in (3, 3, 4))
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)


def test_rows_without_any_difference_prove_nothing() -> None:
    found = paired_difference("base", [True, False, True], [True, False, True], 100, 0.95, 0)
    assert (found.difference, found.low, found.high, found.mcnemar_p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [1, 2, 20])
def test_rows_that_all_differ_alike_have_an_interval_without_width(rows: int) -> None:
    # One row alone used to stop the run after its training: scipy resamples no single row.
    found = paired_difference("base", [True] * rows, [False] * rows, 100, 0.95, 0)
    assert (found.difference, found.low, found.high, found.fixed) == (1.0, 1.0, 1.0, rows)
    assert found.mcnemar_p == pytest.approx(min(1.0, 2 / 2**rows))
    assert paired_difference("base", [False] * rows, [True] * rows, 100, 0.95, 0).high == -1.0


def scored(labels: str, true: str) -> Scored:
    rows = tuple(Row({"text": f"text {i}", "label": label}, f"row {i}") for i, label in enumerate(true))
    return Scored(rows, tuple(Prediction(label, {"a": 0.5, "b": 0.5}, False) for label in labels), {"accuracy": 0.0})


def test_a_comparison_names_the_rows_that_changed_and_the_commonest_label_of_the_training_rows() -> None:
    true = "aabbb"
    train = [Row({"label": label}, "") for label in "aaab"]
    comparison = compare(scored("abbba", true), scored("aabab", true), train, 100, 0.95, 0)
    assert comparison.rows == 5
    assert [(row.text, row.label, row.base, row.adapter) for row in comparison.fixed] == [
        ("text 1", "a", "b", "a"),
        ("text 4", "b", "a", "b"),
    ]
    assert [row.text for row in comparison.broken] == ["text 3"]
    assert (comparison.against_base.fixed, comparison.against_base.broken) == (2, 1)
    # `a` is the commonest in training, `b` in the test: the majority is what training says.
    assert comparison.against_majority.against == "always 'a'"
    assert comparison.against_majority.accuracy_there == 0.4
    assert comparison.against_majority.difference == pytest.approx(0.8 - 0.4)
    assert "fixed" not in comparison.summary()
    assert comparison.summary()["against_base"]["fixed"] == 2
