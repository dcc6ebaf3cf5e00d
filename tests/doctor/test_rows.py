"""Classes, duplicates and conflicts."""

from __future__ import annotations

from typing import Any

import pytest

from pefttune.doctor.classes import check_classes, count_kinds, kinds_of
from pefttune.doctor.repeats import check_repeats

EVEN = [(f"text {i}", "good" if i % 2 else "bad") for i in range(20)]


def told(check: Any, case: Any) -> dict[str, str]:
    return {finding.check: f"{finding.level}: {finding.what}" for finding in check(case)}


def test_even_classes_are_fine(case_of: Any) -> None:
    assert told(check_classes, case_of(EVEN, EVEN)) == {}


def test_classes_without_rows_with_few_and_uneven_ones(case_of: Any) -> None:
    case = case_of([*EVEN, ("odd", "so-so")], EVEN, labels=("bad", "good", "so-so", "none"))
    findings = list(check_classes(case))
    assert [(each.check, each.level, each.what) for each in findings] == [
        ("missing-class", "warning", "no training row is of the class none"),
        ("missing-class", "warning", "no test row is of the class so-so, none"),
        ("rare-class", "warning", "fewer than 5 training rows are of the class so-so (1)"),
        ("uneven-classes", "note", "'bad' is 10.0 times as frequent in training rows as 'so-so'"),
    ]


@pytest.mark.parametrize("rows", [4, 5])
def test_few_is_fewer_than_five(case_of: Any, rows: int) -> None:
    train = [("x", "bad")] * 6 + [("y", "good")] * rows
    assert ("rare-class" in told(check_classes, case_of(train))) == (rows == 4)


def test_classes_that_are_written_in_two_ways(case_of: Any) -> None:
    train = [(f"text {i}", ("Good", "good", "so so", "So  so", "bad")[i % 5]) for i in range(25)]
    findings = check_classes(case_of(train, labels=("Good", "So  so", "bad", "good", "so so")))
    assert [(each.check, each.level, each.what) for each in findings] == [
        ("alike-classes", "warning", "the classes 'Good' and 'good' are the same but for case or spaces"),
        ("alike-classes", "warning", "the classes 'So  so' and 'so so' are the same but for case or spaces"),
    ]


class Entities:
    """A task of which a row holds several kinds, and whose labels are tags of them."""

    labels = ("O", "B-PER", "I-PER")

    def kinds(self, row: Any) -> list[str]:
        return row.values["kinds"]


def test_kinds_are_counted_one_by_one(rows_of: Any) -> None:
    from pefttune.data import Row

    counts = count_kinds(Entities(), [Row({"kinds": ["PER", "LOC", "PER"]}, "a:1"), Row({"kinds": []}, "a:2")])
    assert counts == {"PER": 2, "LOC": 1}
    assert kinds_of(Entities(), [counts]) == ["LOC", "PER"]


def test_a_task_of_free_answers_has_no_kinds(rows_of: Any) -> None:
    assert count_kinds(object(), rows_of([("a", "x")])) is None


def test_repeats_and_conflicts(case_of: Any) -> None:
    train = [("same", "good"), ("once", "bad"), ("same", "good"), ("same", "bad"), ("twice", "bad"), ("twice", "bad")]
    repeated, conflict = check_repeats(case_of(train))
    assert repeated.what == "3 of 6 training rows repeat the input of an earlier one"
    assert repeated.where == ("train.csv:3 = train.csv:1", "train.csv:4 = train.csv:1", "train.csv:6 = train.csv:5")
    assert (conflict.check, conflict.level) == ("conflicts", "warning")
    assert conflict.what == "1 inputs in training rows have different answers"
    assert conflict.where == ("train.csv:1 good ≠ train.csv:4 bad",)


def test_a_repeated_row_is_a_note_until_there_are_many(case_of: Any) -> None:
    rows = [(f"text {i}", "good") for i in range(200)]
    assert [each.level for each in check_repeats(case_of([*rows, ("text 7", "good")]))] == ["note"]
    assert [each.level for each in check_repeats(case_of([*rows, *rows[:3]]))] == ["warning"]
