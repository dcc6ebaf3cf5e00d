"""What is said of a comparison, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from pefttune.evaluation import Comparison, Difference
from pefttune.evaluation.report.verdict import verdict
from pefttune.evaluation.report.wording import duration

BETTER, UNCLEAR, WORSE = (0.1, 0.05, 0.15), (0.02, -0.01, 0.05), (-0.1, -0.15, -0.05)


def said(*differences: tuple[float, float, float], rows: int = 9) -> Any:
    names = ("base, zero-shot", "always 'a'")[-len(differences) :]
    found = tuple(
        Difference(name, 0.5, difference, low, high, 0.01, rows, 1)
        for name, (difference, low, high) in zip(names, differences, strict=True)
    )
    metrics = {"accuracy": 0.6}
    others = dict.fromkeys(names, metrics)
    comparison = Comparison(1200, 0.95, "accuracy", {"accuracy": "accuracy"}, metrics, others, found, (), ())
    return verdict(comparison, {"with adapter": (0.57, 0.63)})


@pytest.mark.parametrize(
    ("differences", "tone", "headline"),
    [
        ((BETTER, BETTER), "better", "Clearly better than the base, zero-shot and the baseline (always 'a')"),
        (
            (UNCLEAR, BETTER),
            "unclear",
            "Clearly better than the baseline (always 'a'); not clearly better than the base, zero-shot",
        ),
        (
            (WORSE, UNCLEAR),
            "worse",
            "Not clearly better than the baseline (always 'a'); worse than the base, zero-shot",
        ),
        ((BETTER,), "better", "Clearly better than the baseline (always 'a')"),
    ],
)
def test_the_headline_hides_nothing(differences: Any, tone: str, headline: str) -> None:
    found = said(*differences)
    assert (found.tone, found.headline) == (tone, headline)


def test_the_sentences_bear_it_out() -> None:
    first, second = (sentence.replace("\u00a0", " ") for sentence in said(UNCLEAR, WORSE).sentences)
    assert first == "On 1,200 held-out rows the adapter reaches 60.0 % accuracy (95 % interval 57.0 to 63.0 %)."
    assert second == (
        "That is 2.0 points above the base, zero-shot (95 % interval −1.0 to +5.0 points, which holds zero) and "
        "10.0 points below the baseline (always 'a') (95 % interval −15.0 to −5.0 points)."
    )


def test_too_few_rows_are_told() -> None:
    found = said(BETTER, rows=4)
    assert (found.tone, found.headline) == ("unclear", "Not clearly better than the baseline (always 'a')")
    told = found.sentences[1].replace("\u00a0", " ")
    assert told.endswith("(95 % interval +5.0 to +15.0 points, but of too few rows that differ).")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(1.24, "1.2 s"), (48.4, "48 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (12_000, "3 h 20 min")],
)
def test_a_duration_is_told_as_people_do(seconds: float, told: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == told
