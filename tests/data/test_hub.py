"""Data sets of the Hub, from a folder in the Hub's layout: what `load_dataset` does with it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from pefttune.data import load
from pefttune.data.hub import hub_splits
from pefttune.errors import DataError
from pefttune.recipe.schema import Data


@pytest.fixture(autouse=True)
def _own_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def repository(tmp_path: Path, **splits: int) -> str:
    """Splits of so many rows, with a class label of which the first row has none."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    (tmp_path / "repo" / "data").mkdir(parents=True)
    for split, count in splits.items():
        values = {
            "text": [f"{split} {number}" for number in range(count)],
            "label": [-1, *(number % 2 for number in range(1, count))],
        }
        datasets.Dataset.from_dict(values, features=features).to_parquet(
            tmp_path / "repo" / "data" / f"{split}-00000.parquet"
        )
    return str(tmp_path / "repo")


@pytest.fixture
def as_hub_id(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `owner/name` stand for a folder."""
    real = datasets.load_dataset

    def make(folder: str) -> str:
        monkeypatch.setattr(datasets, "load_dataset", lambda _, *args, **named: real(folder, *args, **named))
        return "owner/name"

    return make


def test_rows_and_class_labels(tmp_path: Path) -> None:
    folder = repository(tmp_path, train=3, test=2)
    splits = {name: list(rows) for name, rows in hub_splits(folder).items()}
    assert list(splits) == ["train", "test"]
    assert [row.origin for row in splits["train"]] == [f"{folder}[train]:{index}" for index in range(3)]
    assert [dict(row.values) for row in splits["train"]] == [
        {"text": "train 0", "label": None},
        {"text": "train 1", "label": "yes"},
        {"text": "train 2", "label": "no"},
    ]


def test_class_labels_in_lists(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["O", "B-PER"])
    kinds = {
        "tags": datasets.List(names),
        "nested": datasets.List(datasets.List(names)),
        "large": datasets.LargeList(names),
        "numbers": datasets.List(datasets.Value("int64")),
    }
    rows = [
        {"tags": [0, 1], "nested": [[1], []], "large": [1, -1], "numbers": [0, 1]},
        {"tags": [], "nested": [], "large": None, "numbers": None},
    ]
    (tmp_path / "repo").mkdir()
    made = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    made.to_parquet(tmp_path / "repo" / "train.parquet")
    assert [dict(row.values) for row in hub_splits(str(tmp_path / "repo"))["train"]] == [
        {"tags": ["O", "B-PER"], "nested": [["B-PER"], []], "large": ["B-PER", None], "numbers": [0, 1]},
        {"tags": [], "nested": [], "large": None, "numbers": None},
    ]


def test_unknown_or_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        hub_splits("owner/no-such-name", "en", "abc")
    message = str(caught.value)
    assert message.startswith(
        "The data set `owner/no-such-name`, configuration `en`, revision `abc` could not be loaded from the Hub: "
    )
    assert message.endswith(
        ". Check the name and the network; or give a file on this machine, with its ending, as `data.source` or "
        "`data.train`."
    )


def test_a_name_near_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"could not be loaded from the Hub.* Did you mean `film-reviews`\?$"):
        load(Data(source="film-review"), ("text", "label"), ("text",), dict)


def loaded(identifier: str, **options: Any) -> dict[str, int]:
    return load(Data(source=identifier, **options), ("text", "label"), ("text",), dict).report.rows


def test_its_own_splits_are_used(tmp_path: Path, as_hub_id: Any) -> None:
    name = as_hub_id(repository(tmp_path, train=30, validation=5, test=4))
    report = load(Data(source=name), ("text", "label"), ("text",), dict).report
    assert report.rows == {"train": 30, "validation": 5, "test": 4}
    assert report.source == "owner/name"


def test_a_named_split_is_not_used_twice(tmp_path: Path, as_hub_id: Any) -> None:
    # As with GLUE, whose test has no labels: the validation split is the test, and validation comes out of train.
    rows = loaded(as_hub_id(repository(tmp_path, train=100, validation=7)), test="validation")
    assert rows["test"] == 7
    assert rows["train"] + rows["validation"] == 100


def test_a_single_split_is_divided(tmp_path: Path, as_hub_id: Any) -> None:
    assert sum(loaded(as_hub_id(repository(tmp_path, test=100))).values()) == 100


def test_a_part_of_several_splits(tmp_path: Path, as_hub_id: Any) -> None:
    # `validation` is trained on, so that the validation rows come out of the training rows.
    name = as_hub_id(repository(tmp_path, train=30, validation=5, test=4))
    rows = loaded(name, train=("train", "validation"))
    assert (rows["train"] + rows["validation"], rows["test"]) == (35, 4)


def test_splits_that_are_not_there(tmp_path: Path, as_hub_id: Any) -> None:
    name = as_hub_id(repository(tmp_path, test=5, validation=5))
    for options, message in [
        ({}, "Name one of the splits of `owner/name` as `data.train`: `validation`, `test`"),
        (
            {"train": "tset"},
            "`data.train`: `owner/name` has no split `tset`, but `validation`, `test`. Did you mean `test`?",
        ),
        (
            {"train": "test", "test": "test"},
            "`test` is given for more than one part of the data, one of them `train`",
        ),
    ]:
        with pytest.raises(DataError) as caught:
            loaded(name, **options)
        assert str(caught.value) == message


def test_files_have_their_own_settings(tmp_path: Path, as_hub_id: Any) -> None:
    with pytest.raises(DataError, match=r"^`data\.format` would have no effect on this source"):
        loaded(as_hub_id("unused"), format="csv")
