"""Rows on the same passage stay in one part of the data, in whatever order the file has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pefttune.data import Dataset, load, write_rows
from pefttune.errors import DataError
from pefttune.recipe.schema import Data, Split

COLUMNS = ("question", "context")
PARTS = ("train", "validation", "test")


def questions(sizes: Sequence[int]) -> list[dict[str, str]]:
    """So many questions on each passage."""
    return [{"question": f"q{i}", "context": f"passage {n}"} for n, size in enumerate(sizes) for i in range(size)]


def divided(path: Path, rows: Sequence[dict[str, str]], **config: Any) -> Dataset:
    write_rows(path, rows)
    return load(Data(**{"train": str(path), **config}), COLUMNS, COLUMNS, dict, together=("context",))


def passages(dataset: Dataset) -> list[Counter[str]]:
    """Of each part, how many rows each passage has."""
    return [Counter(row.values["context"] for row in getattr(dataset, part)) for part in PARTS]


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4, 5] * 30, [10] * 8, [1] * 100, [40, *[1] * 60]])
@pytest.mark.parametrize(("validation", "test"), [(0.125, 0.25), (0.2, 0.2), (0.1, 0.5)])
def test_every_row_is_in_one_part_whose_size_is_as_near_as_passages_allow(
    tmp_path: Path, sizes: list[int], validation: float, test: float
) -> None:
    rows = questions(sizes)
    dataset = divided(tmp_path / "a.jsonl", rows, split=Split(validation=validation, test=test))
    found = passages(dataset)
    assert sum(found, Counter()) == Counter(row["context"] for row in rows)
    assert sum(map(len, found)) == len(sizes), "no passage is in two parts"
    assert dataset.kept_together == ("context",)
    ordinary = sorted(sizes)[-2]  # a single greater one goes where it fits
    assert abs(found[1].total() - validation * len(rows)) <= ordinary / 2
    assert abs(found[2].total() - test * len(rows)) <= ordinary / 2


def test_another_order_of_the_rows_gives_the_same_parts(tmp_path: Path) -> None:
    rows = questions([1, 2, 3, 4, 5] * 10)
    before, after = divided(tmp_path / "a.jsonl", rows), divided(tmp_path / "b.jsonl", rows[::-1])
    for part in PARTS:
        own, other = ([row.values for row in getattr(dataset, part)] for dataset in (before, after))
        assert own == other[::-1], "and in each the order is the file's"


@pytest.mark.parametrize("giant", range(0, 51, 10))
def test_one_giant_passage_is_trained_on(tmp_path: Path, giant: int) -> None:
    rows = questions([100 if n == giant else 2 for n in range(51)])
    found = passages(divided(tmp_path / "a.jsonl", rows, split=Split(validation=0.1, test=0.2)))
    assert found[0][f"passage {giant}"] == 100
    assert [part.total() for part in found] == [140, 20, 40]


def test_a_part_gets_one_passage_at_least(tmp_path: Path) -> None:
    found = passages(divided(tmp_path / "a.jsonl", questions([10] * 4), split=Split(validation=0.01, test=0.01)))
    assert [len(part) for part in found] == [2, 1, 1]


def test_two_passages_are_not_enough_for_three_parts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Rows with the same context stay in one part\. (Give|Raise)"):
        divided(tmp_path / "a.jsonl", questions([50, 50]))


def test_a_part_of_its_own_file_is_what_that_file_holds(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", own := [{"question": "another", "context": f"passage {n}"} for n in range(3)])
    dataset = divided(tmp_path / "a.jsonl", questions([4] * 20), test=str(tmp_path / "test.jsonl"))
    train, validation, _ = passages(dataset)
    assert [row.values for row in dataset.test] == own
    assert not train & validation
    assert dataset.kept_together == (), "the test may share passages with them"
