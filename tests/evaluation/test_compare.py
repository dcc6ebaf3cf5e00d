"""An adapter against others on the same rows: numbers that can be worked out by hand, or slowly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pefttune import tasks
from pefttune.data import Row
from pefttune.evaluation import Scored, compare, judge, paired_difference
from pefttune.recipe import tasks as sections

# Ten rows: both right on three, only ours on five, only theirs on one, neither on one.
OURS = [True] * 3 + [True] * 5 + [False] * 2
THEIRS = [True] * 3 + [False] * 5 + [True, False]
TASK = tasks.get(sections.TextClassification(type="text-classification", labels=("a", "b")))


def right(rows: list[bool]) -> np.ndarray:
    """Tallies of an accuracy."""
    return np.array([[row, 1] for row in rows], float)


def f1(tallies: np.ndarray) -> np.ndarray:
    """Of (found, said, true); 1 where there is nothing to find and nothing is said."""
    found, said, true = np.moveaxis(tallies, -1, 0)
    return np.divide(2 * found, said + true, out=np.ones_like(found), where=said + true > 0)


def some_counts(seed: int, rows: int) -> np.ndarray:
    """Found, said and true entities of so many texts, none at all in some."""
    rng = np.random.default_rng(seed)
    true, wrong = rng.integers(0, 4, rows), rng.integers(0, 2, rows)
    found = rng.binomial(true, 0.6)
    return np.stack([found, found + wrong, true], axis=1).astype(float)


def test_a_difference_by_hand() -> None:
    found = paired_difference("base", right(OURS), right(THEIRS), TASK.primary_of, 2000, 0.95, 0)
    assert (found.against, found.fixed, found.broken) == ("base", 5, 1)
    assert found.there == 0.4
    assert found.difference == pytest.approx(0.4)  # (5 - 1) / 10
    # The sign test, exact: of six rows that differ, five or more on one side, either side.
    assert found.sign_test_p == pytest.approx(2 * (6 + 1) / 2**6)
    assert found.low <= found.difference <= found.high


@pytest.mark.parametrize(("rows", "judged"), [(1, "unclear"), (5, "unclear"), (6, "better")])
def test_too_few_rows_that_differ_are_judged_unclear(rows: int, judged: str) -> None:
    ours, theirs = right([True] * rows), right([False] * rows)
    found = paired_difference("base", ours, theirs, TASK.primary_of, 200, 0.95, 0)
    assert (found.low, found.judgement) == (1.0, judged)  # the interval alone leaves out zero


def test_the_interval_is_that_of_resampled_rows() -> None:
    # A resampled row loses with 0.1, is as before with 0.4, gains with 0.5. The sum of ten, exactly:
    chances = np.ones(1)
    for _ in range(10):
        chances = np.convolve(chances, [0.1, 0.4, 0.5])
    below = np.cumsum(chances)
    low, high = (int(np.searchsorted(below, tail)) / 10 - 1 for tail in (0.075, 0.925))
    found = paired_difference("base", right(OURS), right(THEIRS), TASK.primary_of, 5000, 0.85, 1)
    # Both tails lie 0.02 from the next tenth, six standard errors of 5000 resamples.
    assert (
        (found.low, found.high) == (pytest.approx(low), pytest.approx(high)) == (pytest.approx(0.1), pytest.approx(0.7))
    )


def test_the_bootstrap_of_a_metric_that_is_no_mean_is_that_of_drawn_rows() -> None:
    """Done slowly: draw rows one by one, sum what each counts, take the F1 of both sums, subtract."""
    ours, theirs, resamples = some_counts(1, 40), some_counts(2, 40), 8000
    rng, slow = np.random.default_rng(5), []
    for _ in range(resamples):
        drawn = rng.integers(0, 40, 40)
        scores = []
        for counts in (ours, theirs):
            found, said, true = (sum(counts[row][k] for row in drawn) for k in range(3))
            scores.append(2 * found / (said + true))
        slow.append(scores[0] - scores[1])
    found = paired_difference("base", ours, theirs, f1, resamples, 0.9, 0)
    low, high = np.quantile(slow, [0.05, 0.95])
    # Two samples of 8000: a 5 % quantile has a standard error of 0.024 standard deviations in each. Four of both.
    near = 4 * 0.024 * 2**0.5 * float(np.std(slow))
    assert (found.low, found.high) == (pytest.approx(low, abs=near), pytest.approx(high, abs=near))
    assert found.difference == float(f1(ours.sum(0)) - f1(theirs.sum(0)))
    assert found.there == float(f1(theirs.sum(0)))
    # It is no mean of rows: their average is another number, and so is where it lies.
    assert abs(float(f1(theirs).mean()) - found.there) > 0.01


def test_rows_are_better_or_worse_by_their_own_metric() -> None:
    ours, theirs = some_counts(1, 40), some_counts(2, 40)
    found = paired_difference("base", ours, theirs, f1, 50, 0.95, 0)
    gains = Counter(np.sign([f1(a) - f1(b) for a, b in zip(ours, theirs, strict=True)]).tolist())
    assert (found.fixed, found.broken) == (gains[1.0], gains[-1.0])
    assert min(gains.values()) > 0


def test_resamples_are_as_many_as_asked_for() -> None:
    """Also where they do not fill the last of the portions that they are drawn in."""
    sizes: list[int] = []

    def noted(tallies: np.ndarray) -> np.ndarray:
        sizes.append(len(tallies) if tallies.ndim == 2 else 0)
        return TASK.primary_of(tallies)

    paired_difference("base", right(OURS), right(THEIRS), noted, 250, 0.95, 0)
    resampled = sizes[4:]  # before it, both by row and both in sum
    assert (sizes[:4], sum(resampled[::2]), sum(resampled[1::2])) == ([10, 10, 0, 0], 250, 250)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (right(list(rng.random(50) < share)) for share in (0.7, 0.5))
    one, same, other = (paired_difference("x", ours, theirs, TASK.primary_of, 200, 0.95, seed) for seed in (3, 3, 4))
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_rows_without_any_difference_prove_nothing(metric: str) -> None:
    same, primary = (right(OURS), TASK.primary_of) if metric == "accuracy" else (some_counts(0, 30), f1)
    found = paired_difference("base", same, same.copy(), primary, 100, 0.95, 0)
    assert (found.difference, found.low, found.high, found.sign_test_p) == (0.0, 0.0, 0.0, 1.0)
    assert (found.fixed, found.broken) == (0, 0)


@pytest.mark.parametrize("rows", [1, 2, 20])
def test_rows_that_all_differ_alike_have_an_interval_without_width(rows: int) -> None:
    # One row alone used to stop the run after its training: scipy resamples no single row.
    good, bad = right([True] * rows), right([False] * rows)
    found = paired_difference("base", good, bad, TASK.primary_of, 100, 0.95, 0)
    assert (found.difference, found.low, found.high, found.fixed) == (1.0, 1.0, 1.0, rows)
    assert found.sign_test_p == pytest.approx(min(1.0, 2 / 2**rows))
    assert paired_difference("base", bad, good, TASK.primary_of, 100, 0.95, 0).high == -1.0


def scored(name: str, labels: str, true: str) -> Scored:
    rows = [Row({"text": f"text {i}", "label": label}, f"row {i}") for i, label in enumerate(true)]
    return judge(name, TASK, rows, [tasks.Classified(label, {"a": 0.5, "b": 0.5}, False) for label in labels])


def test_a_scoring_knows_its_metrics_and_what_they_are_made_of() -> None:
    found = scored("base", "abbba", "aabbb")
    assert found.metrics["accuracy"] == 0.6
    assert found.tallies.tolist() == [[1, 1], [0, 1], [1, 1], [1, 1], [0, 1]]


def test_a_comparison_names_the_rows_that_changed_and_sets_the_adapter_beside_everybody() -> None:
    true = "aabbb"
    adapter = scored("with adapter", "aabab", true)
    comparison = compare(
        TASK, adapter, [scored("base", "abbba", true), scored("always 'a'", "aaaaa", true)], 99, 0.9, 0
    )
    assert (comparison.rows, comparison.confidence_level, comparison.primary) == (5, 0.9, "accuracy")
    assert comparison.shown == {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "calibration_error": "calibration error",
    }
    # The rows are those that changed against the first of the others.
    assert [(row.text, row.reference, row.other, row.adapter) for row in comparison.fixed] == [
        ("text 1", "a", "b", "a"),
        ("text 4", "b", "a", "b"),
    ]
    assert [row.text for row in comparison.broken] == ["text 3"]
    base, majority = comparison.differences
    assert (base.against, base.there, base.fixed, base.broken) == ("base", 0.6, 2, 1)
    assert base.difference == pytest.approx(0.8 - 0.6)
    assert (majority.against, majority.there, majority.fixed, majority.broken) == ("always 'a'", 0.4, 2, 0)
    assert majority.difference == pytest.approx(0.8 - 0.4)
    assert list(comparison.everybody) == ["base", "always 'a'", "with adapter"]
    assert comparison.everybody["with adapter"] == comparison.adapter == adapter.metrics
    assert {"fixed", "broken"}.isdisjoint(comparison.summary())
    assert comparison.summary()["differences"][0]["fixed"] == 2
