"""What a key's value must keep to beyond its type."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pefttune.errors import RecipeError
from pefttune.recipe import recipe_from_mapping

# An override of a right recipe → what is said after its key.
BROKEN_RULES = {
    "task.labels=[good]": "needs at least two labels; 'good' alone leaves nothing to learn",
    "task.labels=[good, bad, good]": "'good' stands here 2 times",
    "task.labels=[]": "must not be empty",
    "task.labels=['bad ', good]": "'bad ' begins or ends with a blank, and no row's label does: write 'bad'",
    "task.instruction='Is it {label}? {labels}'": "unknown placeholder '{label}'; only '{labels}' is filled in",
    "task.instruction='Is it {}?'": "unknown placeholder '{}'; only '{labels}' is filled in",
    "data.column_names=[text, text]": "'text' stands here 2 times",
    "data.split={test: 0.5, validation: 0.5}": "validation and test together leave no rows to train on: "
    "their sum must be below 1",
    "data.label_bins={good: {above: 0}}": "needs at least two bins, or there is one label at most and nothing to learn",
    "data.label_bins={good: {above: 1}, so: {above: -1, below: 2}}": "bins 'so' and 'good' overlap: "
    "a number can lie in both",
    "output.name=base": "'base' is reserved; take another name",
    "output.name=default": "'default' is reserved; take another name",
}


@pytest.mark.parametrize(("override", "message"), BROKEN_RULES.items())
def test_broken_rule_gives_exactly_this_fault(faults: Any, minimal: str, override: str, message: str) -> None:
    key = override.partition("=")[0]
    assert faults(minimal, [override]) == [f"override {override!r}  {key}: {message}"]


def test_a_bin_must_hold_a_number(faults: Any, minimal: str) -> None:
    text = minimal.replace("reviews.csv", "reviews.csv, label_bins: {bad: {above: 1, below: 1}, good: {above: 1}}")
    assert faults(text) == [
        "x.yaml:2  data.label_bins.bad: holds no number: none is greater than 1 and less than 1",
    ]


def test_bins_may_touch_and_stand_in_any_order(load: Any, minimal: str) -> None:
    recipe = load(minimal, ["data.label_bins={good: {above: 1}, so: {above: -1, below: 1}, bad: {below: -1}}"])
    assert recipe.data.label_bins is not None
    assert [name for name, each in recipe.data.label_bins.items() if each.holds(-1.5)] == ["bad"]
    assert not any(each.holds(1) for each in recipe.data.label_bins.values())


def test_bins_must_name_the_labels(load: Any, faults: Any, minimal: str) -> None:
    bins = "data.label_bins={good: {above: 0}, bad: {below: 0}}"
    assert faults(minimal, ["task.labels=[good, poor]", bins]) == [
        "x.yaml:2  data: label_bins has 'bad', not among task.labels"
    ]
    assert load(minimal, ["task.labels=[good, poor, bad]", bins]).task.labels == ("good", "poor", "bad")


@pytest.mark.parametrize("name", ["Film", ".film", "-film", "a..b", "a/b", "film\n", "é", "a" * 65])
def test_unsafe_name_is_refused(minimal: str, name: str) -> None:
    with pytest.raises(RecipeError, match=r"x  output\.name: .* is not a safe name; take 1 to 64 small letters"):
        recipe_from_mapping({**yaml.safe_load(minimal), "output": {"name": name}}, "x")


@pytest.mark.parametrize("name", ["a", "0", "film-2.1_b", "a" * 64])
def test_safe_name_is_taken(load: Any, minimal: str, name: str) -> None:
    assert load(minimal, [f"output.name='{name}'"]).output.name == name
