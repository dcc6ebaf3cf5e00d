"""Held-out rows that are nearly training rows."""

from __future__ import annotations

from typing import Any

import pytest

from pefttune.data import Row
from pefttune.doctor.leaks import check_leaks, find_leaks

LONG = "the plot is thin, but the whole cast makes it sparkle from its first minute to the very last one of them"


def leaks_of(train: Any, test: Any, inputs: tuple[str, ...] = ("text",)) -> list[tuple[str, str, bool]]:
    def rows(values: Any, file: str) -> list[Row]:
        return [
            Row(value if isinstance(value, dict) else {"text": value}, f"{file}:{i}") for i, value in enumerate(values)
        ]

    found = find_leaks({"train": rows(train, "a"), "test": rows(test, "b")}, inputs)
    return [(leak.row.origin, leak.earlier.origin, leak.same) for leak in found["test"]]


@pytest.mark.parametrize("other", [LONG.upper(), LONG.replace(",", " –"), f"  {LONG}!!"])
def test_the_same_but_for_case_punctuation_and_spaces(other: str) -> None:
    assert leaks_of(["else", LONG], [other]) == [("b:0", "a:1", True)]


def test_one_letter_of_a_long_text() -> None:
    assert leaks_of(["else", LONG], ["nothing", LONG.replace("thin", "then")]) == [("b:1", "a:1", False)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a fine film", "a fine filn"),  # short: a letter is another word
        (LONG, LONG[: len(LONG) // 2]),
        (LONG, " ".join(LONG.split()[::-1])),
        ("!?", ":-)"),  # nothing is left of them
    ],
)
def test_texts_that_are_not_near(one: str, other: str) -> None:
    assert leaks_of([one], [other]) == []


def test_each_column_must_be_near() -> None:
    """Two questions about one long passage."""
    inputs, passage = ("question", "context"), LONG * 20
    ask = {"question": "Who makes it sparkle?", "context": passage}
    assert leaks_of([ask], [{**ask, "question": "How thin is the plot?"}], inputs) == []
    assert leaks_of([ask], [{**ask, "context": passage + " Indeed."}], inputs) == [("b:0", "a:0", False)]


def test_words_and_turns_are_text_and_numbers_are_not() -> None:
    turns = {"text": [{"role": "user", "content": LONG}]}
    assert leaks_of([{"text": LONG.split()}], [{"text": LONG}]) == [("b:0", "a:0", True)]
    assert leaks_of([turns], [turns]) == [("b:0", "a:0", True)]
    assert leaks_of([{"text": 7}], [{"text": 7}]) == []


def test_what_is_told(case_of: Any, only: Any) -> None:
    case = case_of([(LONG, "good"), ("x", "bad")], [(LONG.title(), "bad"), (f"{LONG} now", "good"), ("y", "good")])
    finding = only(check_leaks, case)
    assert (finding.check, finding.level, finding.rows) == ("near-duplicates", "warning", 2)
    assert finding.where == ("test.csv:1 ~ train.csv:1", "test.csv:2 ~ train.csv:1")
    assert finding.what == (
        "2 of 3 test rows are nearly training rows, 1 of them the same but for case, punctuation and spaces, "
        "1 of them with another answer"
    )


def test_nothing_is_told_of_apart_rows(case_of: Any) -> None:
    assert list(check_leaks(case_of([(LONG, "good")], [("another", "bad")]))) == []
