"""The data sets known by name. Most of it needs the package index once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from pefttune.data import CATALOGUE, load, locate, read_rows
from pefttune.errors import DataError
from pefttune.recipe.schema import Bin, Data

ROWS = {"film-reviews": 10_605, "product-reviews": 3708, "tweets": 4200, "editorials": 5190}


def test_an_unknown_name() -> None:
    with pytest.raises(DataError) as caught:
        locate("film-review")
    assert str(caught.value) == (
        "No data set of the catalogue is called `film-review`: there are `film-reviews`, `product-reviews`, `tweets`, "
        "`editorials`. Did you mean `film-reviews`?"
    )


def test_every_entry_says_what_it_is() -> None:
    assert list(CATALOGUE) == list(ROWS)
    for entry in CATALOGUE.values():
        assert entry.licence == "MIT"
        assert "Hutto" in entry.citation
        assert entry.homepage.startswith("https://")


@pytest.mark.real
@pytest.mark.parametrize("name", ROWS)
def test_the_rows(name: str) -> None:
    path = locate(name)
    rows = list(read_rows(path, column_names=CATALOGUE[name].columns))
    assert len(rows) == ROWS[name]
    assert all(-4 <= float(row.values["rating"]) <= 4 and row.values["text"].strip() for row in rows)
    assert len({row.values["id"] for row in rows}) == len(rows)
    before = path.stat()
    assert locate(name).stat() == before  # not unpacked again


@pytest.mark.real
def test_a_damaged_copy_is_unpacked_again(tmp_path: Path) -> None:
    path = locate("tweets", tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert locate("tweets", tmp_path).read_bytes() == whole


@pytest.mark.real
def test_loaded_as_a_recipe_does() -> None:
    bins = {"negative": Bin(below=-0.5), "positive": Bin(above=0.5)}
    config = Data(source="film-reviews", columns={"label": "rating"}, label_bins=bins)
    dataset = load(config, ("text", "label"), ("text",), dict)
    report = asdict(dataset.report)
    assert sum(report["rows"].values()) + report["left_out_by_bins"] == ROWS["film-reviews"]
    assert report["title"] == "Film review snippets with mean human sentiment ratings"
    assert report["licence"] == "MIT"
    assert {row.values["label"] for row in dataset.test} == set(bins)
    assert dataset.train[0].origin.startswith("film-reviews.tsv:")
