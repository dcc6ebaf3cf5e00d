"""YAML as a recipe is written in it, and back: no surprises of its types, and a place for what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttune.errors import RecipeError
from pefttune.recipe import load_recipe, recipe_from_mapping, resolved_yaml, to_mapping

NOT_YAML = {
    "a: b: c": "x.yaml:1:5  not valid YAML: mapping values are not allowed here",
    "a: 1\nb: [1,\nc: 2": "x.yaml:3:5  not valid YAML: expected ',' or ']', but got '<stream end>'",
    "a: &x 1": "x.yaml:1:4  not valid YAML: a recipe has no & * or ! before a value",
    "a: [1]\nb: *a": "x.yaml:2:4  not valid YAML: a recipe has no & * or ! before a value",
    "a: !!python/name:os.system x": "x.yaml:1:4  not valid YAML: a recipe has no & * or ! before a value",
    "a: 1\n--- \nb: 1": "x.yaml:2:1  not valid YAML: but found another document",
    "a: 1\nb: x\x07y": "x.yaml:2:5  not valid YAML: the character '\\x07' is not allowed",
    "a: " + "[" * 5000: "x.yaml:1:23  not valid YAML: nested too deeply",
}


@pytest.mark.parametrize(("text", "message"), NOT_YAML.items())
def test_broken_yaml_is_placed_by_line_and_column(faults: Any, text: str, message: str) -> None:
    (line,) = faults(text)
    assert line.startswith(message)


def test_broken_yaml_and_broken_overrides_are_told_together(faults: Any) -> None:
    assert faults("a: b: c", ["seed"]) == [
        "x.yaml:1:5  not valid YAML: mapping values are not allowed here",
        "override 'seed'  must look like training.learning_rate=2e-4",
    ]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "null"])
def test_empty_file(faults: Any, text: str) -> None:
    assert faults(text) == ["x.yaml:1  is empty: a recipe is a mapping with keys such as `task:`"]


@pytest.mark.parametrize("text", ["- task", "task"])
def test_file_that_is_no_mapping(faults: Any, text: str) -> None:
    assert faults(text, ["seed=1"]) == ["x.yaml:1  is not a recipe: a recipe is a mapping with keys such as `task:`"]


def test_words_and_numbers_are_what_they_look_like(load: Any, minimal: str) -> None:
    recipe = load(
        minimal.replace("{type: text-classification}", "{type: text-classification, labels: [yes, no, On, 2024-01-01]}")
        + "training: {learning_rate: 1e-4, weight_decay: '1e-2', max_grad_norm: 1, max_steps: 010}\n"
        + "base: {double_quantization: false, revision: ~}\n"
    )
    assert recipe.task.labels == ("yes", "no", "On", "2024-01-01")
    assert (recipe.training.learning_rate, recipe.training.weight_decay) == (1e-4, 1e-2)
    assert (recipe.training.max_grad_norm, recipe.training.max_steps) == (1.0, 10)
    assert recipe.base.double_quantization is False
    assert recipe.base.revision is None


def test_pyyaml_itself_is_left_as_it_is(load: Any, minimal: str) -> None:
    load(minimal)
    assert yaml.safe_load("[1e-4, yes, 2024-01-01]") == yaml.load("[1e-4, yes, 2024-01-01]", yaml.SafeLoader)
    assert yaml.safe_load("[1e-4, yes]") == ["1e-4", True]
    assert yaml.safe_dump(["1e-4"]) == "- 1e-4\n"


def test_byte_order_mark_and_windows_lines(minimal: str) -> None:
    Path("x.yaml").write_bytes(b"\xef\xbb\xbf" + minimal.replace("\n", "\r\n").encode() + b"sed: 1\r\n")
    with pytest.raises(RecipeError, match=r"^x\.yaml:4  sed: unknown key; did you mean 'seed'\?$"):
        load_recipe("x.yaml")


def test_resolved_recipe_is_complete_and_comes_back_from_json_and_yaml(load: Any, minimal: str) -> None:
    bins = "data.label_bins={a: {above: 0}, b: {below: 0}}"
    recipe = load(minimal, [bins, "data.test=[a.bio, b.bio]", "training.learning_rate=1e-5"])
    assert recipe.data.test == ("a.bio", "b.bio")
    mapping = json.loads(json.dumps(to_mapping(recipe)))
    assert mapping["adapter"] == {
        "method": "lora",
        "r": None,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "layers": None,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "budget": None,
        "init_lora_weights": "default",
        "rho": None,
        "loraplus_lr_ratio": 1.0,
        "warm_start": None,
    }
    assert recipe_from_mapping(mapping, "pefttune.json") == recipe
    assert load(resolved_yaml(recipe)) == recipe
    assert yaml.safe_load(resolved_yaml(recipe)) == mapping


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, unique=True))
def test_any_text_comes_back_from_the_resolved_recipe(load: Any, minimal: str, names: list[str]) -> None:
    recipe = recipe_from_mapping(
        {**yaml.safe_load(minimal), "data": {"source": "reviews.csv", "column_names": names}}, ""
    )
    assert load(resolved_yaml(recipe)) == recipe


@pytest.mark.parametrize("name", ["1e-4", "08", "1_000", "null", "~", "true", "yes", "=", "<<", "a: b", "#", "é", "\n"])
def test_text_that_looks_like_something_else_comes_back_as_text(load: Any, minimal: str, name: str) -> None:
    recipe = recipe_from_mapping(
        {**yaml.safe_load(minimal), "data": {"source": "reviews.csv", "column_names": [name]}}, ""
    )
    assert load(resolved_yaml(recipe)).data.column_names == (name,)
    assert yaml.safe_load(resolved_yaml(recipe))["data"]["column_names"] == [name]
