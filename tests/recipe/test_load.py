"""Reading recipes: every wrong one gives its exact sentence, every right one its values and their origins."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from pefttune.errors import RecipeError
from pefttune.recipe import (
    Recipe,
    load_recipe,
    read_recipe,
    recipe_from_mapping,
    resolved_yaml,
    shipped,
    shipped_recipes,
    to_mapping,
)
from pefttune.recipe.faults import sentences
from pefttune.recipe.keys import Slot
from pefttune.recipe.schema import Indices, Section

MINIMAL = """\
task: {type: text-classification}
data: {source: reviews.csv}
output: {name: film}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, overrides: Sequence[str] = ()) -> Recipe:
    Path("x.yaml").write_text(text, encoding="utf-8")
    return load_recipe("x.yaml", overrides)


def faults(text: str, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(text, overrides)
    return str(caught.value).splitlines()


# What is added to MINIMAL, from line 4 on → the one fault.
WRONG = {
    "unknown key": (
        "training:\n  learing_rate: 1e-4",
        "x.yaml:5  training.learing_rate: unknown key; did you mean 'learning_rate'?",
    ),
    "key of another section": (
        "base: {learning_rate: 1e-4}",
        "x.yaml:4  base.learning_rate: unknown key here; it belongs to training",
    ),
    "key of two other sections": (
        "training: {revision: main}",
        "x.yaml:4  training.revision: unknown key here; it belongs to base or data",
    ),
    "key of the top level": (
        "training: {seed: 1}",
        "x.yaml:4  training.seed: unknown key here; it belongs to the top level",
    ),
    "key without a section": (
        "max_steps: 10",
        "x.yaml:4  max_steps: unknown key here; it belongs to training",
    ),
    "misspelt key of another section": (
        "evaluation: {learing_rate: 1}",
        "x.yaml:4  evaluation.learing_rate: unknown key; did you mean 'training.learning_rate'?",
    ),
    "misspelt section": (
        "trainin: {max_steps: 1}",
        "x.yaml:4  trainin: unknown key; did you mean 'training'?",
    ),
    "key like no other": (
        "evaluation: {zzz: 1}",
        "x.yaml:4  evaluation.zzz: unknown key; known here: bootstrap_samples, confidence_level",
    ),
    "key that looks like more than it is": (
        'evaluation: {"a.b\\nc": 1}',
        "x.yaml:4  evaluation.'a.b\\nc': unknown key; known here: bootstrap_samples, confidence_level",
    ),
    "YAML's merge key": (
        "base: {<<: {dtype: auto}}",
        "x.yaml:4  base.'<<': unknown key; known here: source, revision, quantization, double_quantization, dtype, "
        "device",
    ),
    "misspelt method": (
        "adapter:\n  method: loar",
        "x.yaml:5  adapter.method: 'loar' is not one of: lora; did you mean 'lora'?",
    ),
    "no method": ("adapter: {r: 4}", "x.yaml:4  adapter.method: missing key; one of: lora"),
    "choice like no other": (
        "base: {quantization: q4}",
        "x.yaml:4  base.quantization: 'q4' is not one of: nf4, fp4, int8, none",
    ),
    "misspelt entry of a list": (
        "training:\n  report_to:\n  - wandb\n  - tensorbord",
        "x.yaml:7  training.report_to[1]: 'tensorbord' is not one of: tensorboard, wandb, trackio, mlflow; "
        "did you mean 'tensorboard'?",
    ),
    "a word where a list can stand": (
        "adapter: {method: lora, target_modules: all-liner}",
        "x.yaml:4  adapter.target_modules: must be all-linear or a list (each entry: text), not 'all-liner'; "
        "did you mean 'all-linear'?",
    ),
    "a repeat, where a word can stand": (
        "adapter: {method: lora, target_modules: [q, v, q]}",
        "x.yaml:4  adapter.target_modules: 'q' stands here 2 times",
    ),
    "text for a number": (
        "training: {learning_rate: fast}",
        "x.yaml:4  training.learning_rate: must be a number (above 0), not 'fast'",
    ),
    "text for a whole number": (
        "training: {max_steps: many}",
        "x.yaml:4  training.max_steps: must be a whole number (above 0) or null, not 'many'",
    ),
    "fraction for a whole number": (
        "adapter: {method: lora, r: 8.5}",
        "x.yaml:4  adapter.r: must be a whole number (above 0 and at most 1024), not 8.5",
    ),
    "boolean for a number": (
        "adapter: {method: lora, r: true}",
        "x.yaml:4  adapter.r: must be a whole number (above 0 and at most 1024), not true",
    ),
    "boolean for an index": (
        "adapter: {method: lora, layers: [0, true]}",
        "x.yaml:4  adapter.layers: must be text or a list (each entry: a whole number (at least 0)) or null, "
        "not [0, true]",
    ),
    "word for a boolean": (
        "base: {double_quantization: no}",
        "x.yaml:4  base.double_quantization: must be true or false, not 'no'",
    ),
    "number for a boolean": (
        "base: {double_quantization: 1}",
        "x.yaml:4  base.double_quantization: must be true or false, not 1",
    ),
    "number for text": (
        "base: {revision: 1234567}",
        "x.yaml:4  base.revision: must be text or null, not 1234567; put it in quotes",
    ),
    "null for text": ("base: {source: }", "x.yaml:4  base.source: must be text, not null"),
    "empty text": ("base: {source: ''}", "x.yaml:4  base.source: must not be empty"),
    "empty list": (
        "adapter: {method: lora, layers: []}",
        "x.yaml:4  adapter.layers: must not be empty",
    ),
    "value for a section": ("training: 3", "x.yaml:4  training: must be a section, not 3"),
    "nothing for a section": ("training:", "x.yaml:4  training: must be a section, not null"),
    "section for a value": (
        "training: {max_steps: {a: 1}}",
        "x.yaml:4  training.max_steps: must be a whole number (above 0) or null, not {a: 1}",
    ),
    "long value": (
        f"training: {{max_steps: {'x' * 99}}}",
        f"x.yaml:4  training.max_steps: must be a whole number (above 0) or null, not '{'x' * 59}…",
    ),
    "below the range": ("seed: -1", "x.yaml:4  seed: must be a whole number (at least 0 and below 4294967296), not -1"),
    "above the range": (
        "training: {warmup_ratio: 1}",
        "x.yaml:4  training.warmup_ratio: must be a number (at least 0 and below 1), not 1",
    ),
    "not finite": (
        "training: {weight_decay: 1e999}",
        "x.yaml:4  training.weight_decay: must be a number (at least 0), not .inf",
    ),
    "not a number": (
        "training: {weight_decay: nan}",
        "x.yaml:4  training.weight_decay: must be a number (at least 0), not 'nan'",
    ),
    "more digits than Python reads": (
        f"training: {{max_steps: {'9' * 5000}}}",
        "x.yaml:4  training.max_steps: must be a whole number (above 0) or null, not .inf",
    ),
    "duplicate key": (
        "training:\n  max_steps: 1\n  eval_steps: 1\n  max_steps: 2",
        "x.yaml:7  training.max_steps: duplicate key; given before at x.yaml:5",
    ),
    "key that is a list": ("training: {[a, b]: 1}", "x.yaml:4  training: a key must be text"),
}


@pytest.mark.parametrize(("addition", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_recipe_gives_exactly_this_fault(addition: str, message: str) -> None:
    assert faults(MINIMAL + addition) == [message]


# An override of a right recipe → what is said after its key.
BROKEN_RULES = {
    "task.labels=[good]": "needs at least two labels; 'good' alone leaves nothing to learn",
    "task.labels=[good, bad, good]": "'good' stands here 2 times",
    "task.labels=[]": "must not be empty",
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
def test_broken_rule_gives_exactly_this_fault(override: str, message: str) -> None:
    key = override.partition("=")[0]
    assert faults(MINIMAL, [override]) == [f"override {override!r}  {key}: {message}"]


def test_a_bin_must_hold_a_number() -> None:
    text = MINIMAL.replace("reviews.csv", "reviews.csv, label_bins: {bad: {above: 1, below: 1}, good: {above: 1}}")
    assert faults(text) == [
        "x.yaml:2  data.label_bins.bad: holds no number: none is greater than 1 and less than 1",
    ]


def test_bins_may_touch_and_stand_in_any_order() -> None:
    recipe = load(MINIMAL, ["data.label_bins={good: {above: 1}, so: {above: -1, below: 1}, bad: {below: -1}}"])
    assert recipe.data.label_bins is not None
    assert [name for name, each in recipe.data.label_bins.items() if each.holds(-1.5)] == ["bad"]
    assert not any(each.holds(1) for each in recipe.data.label_bins.values())


def test_bins_must_name_the_labels() -> None:
    bins = "data.label_bins={good: {above: 0}, bad: {below: 0}}"
    assert faults(MINIMAL, ["task.labels=[good, poor]", bins]) == [
        "x.yaml:2  data: label_bins has 'bad', not among task.labels"
    ]
    assert load(MINIMAL, ["task.labels=[good, poor, bad]", bins]).task.labels == ("good", "poor", "bad")


@pytest.mark.parametrize("name", ["Film", ".film", "-film", "a..b", "a/b", "film\n", "é", "a" * 65])
def test_unsafe_name_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"x  output\.name: .* is not a safe name; take 1 to 64 small letters"):
        recipe_from_mapping({**yaml.safe_load(MINIMAL), "output": {"name": name}}, "x")


@pytest.mark.parametrize("name", ["a", "0", "film-2.1_b", "a" * 64])
def test_safe_name_is_taken(name: str) -> None:
    assert load(MINIMAL, [f"output.name='{name}'"]).output.name == name


def test_missing_sections_and_keys_are_named_at_the_line_of_their_parent() -> None:
    assert faults("# a comment\nseed: 1\noutput:\n  license: MIT\n") == [
        "x.yaml:2  task: missing section; it needs type",
        "x.yaml:2  data: missing key",
        "x.yaml:3  output.name: missing key",
    ]


def test_data_must_have_a_source() -> None:
    assert faults(MINIMAL.replace("source: reviews.csv", "max_length: 9")) == [
        "x.yaml:2  data: give `source` (one source, to be split) or `train` (a file)"
    ]


def test_all_faults_are_in_one_error_in_the_order_of_the_file_and_then_of_the_overrides() -> None:
    text = """\
training: {learing_rate: 1, max_steps: 0}
output: {name: Film}
task:
  type: text-classificatio
  labels: [a, a]
data:
  split: {test: 2}
  split: {}
"""
    overrides = ["seed", "base.dtype=float23", "training.report_to=[", "=1"]
    assert faults(text, overrides) == [
        "x.yaml:8  data.split: duplicate key; given before at x.yaml:7",
        "override 'seed'  must look like training.learning_rate=2e-4",
        "override 'training.report_to=['  not valid YAML: expected the node content, but found '<stream end>' "
        "(while parsing a flow node)",
        "override '=1'  must look like training.learning_rate=2e-4",
        "x.yaml:1  training.learing_rate: unknown key; did you mean 'learning_rate'?",
        "x.yaml:1  training.max_steps: must be a whole number (above 0) or null, not 0",
        "x.yaml:2  output.name: 'Film' is not a safe name; take 1 to 64 small letters, digits, '-', '_' and '.', "
        "with a letter or digit first and without '..'",
        "x.yaml:4  task.type: 'text-classificatio' is not one of: text-classification; "
        "did you mean 'text-classification'?",
        "x.yaml:5  task.labels: 'a' stands here 2 times",
        "x.yaml:7  data.split.test: must be a number (at least 0 and below 1), not 2",
        "override 'base.dtype=float23'  base.dtype: 'float23' is not one of: auto, float32, bfloat16, float16; "
        "did you mean 'float32'?",
    ]


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
def test_broken_yaml_is_placed_by_line_and_column(text: str, message: str) -> None:
    (line,) = faults(text)
    assert line.startswith(message)


def test_broken_yaml_and_broken_overrides_are_told_together() -> None:
    assert faults("a: b: c", ["seed"]) == [
        "x.yaml:1:5  not valid YAML: mapping values are not allowed here",
        "override 'seed'  must look like training.learning_rate=2e-4",
    ]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "null"])
def test_empty_file(text: str) -> None:
    assert faults(text) == ["x.yaml:1  is empty: a recipe is a mapping with keys such as `task:`"]


@pytest.mark.parametrize("text", ["- task", "task"])
def test_file_that_is_no_mapping(text: str) -> None:
    assert faults(text, ["seed=1"]) == ["x.yaml:1  is not a recipe: a recipe is a mapping with keys such as `task:`"]


def test_words_and_numbers_are_what_they_look_like() -> None:
    recipe = load(
        MINIMAL.replace("{type: text-classification}", "{type: text-classification, labels: [yes, no, On, 2024-01-01]}")
        + "training: {learning_rate: 1e-4, weight_decay: '1e-2', max_grad_norm: 1, max_steps: 010}\n"
        + "base: {double_quantization: false, revision: ~}\n"
    )
    assert recipe.task.labels == ("yes", "no", "On", "2024-01-01")
    assert (recipe.training.learning_rate, recipe.training.weight_decay) == (1e-4, 1e-2)
    assert (recipe.training.max_grad_norm, recipe.training.max_steps) == (1.0, 10)
    assert recipe.base.double_quantization is False
    assert recipe.base.revision is None


def test_pyyaml_itself_is_left_as_it_is() -> None:
    load(MINIMAL)
    assert yaml.safe_load("[1e-4, yes, 2024-01-01]") == yaml.load("[1e-4, yes, 2024-01-01]", yaml.SafeLoader)
    assert yaml.safe_load("[1e-4, yes]") == ["1e-4", True]
    assert yaml.safe_dump(["1e-4"]) == "- 1e-4\n"


def test_byte_order_mark_and_windows_lines() -> None:
    Path("x.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode() + b"sed: 1\r\n")
    with pytest.raises(RecipeError, match=r"^x\.yaml:4  sed: unknown key; did you mean 'seed'\?$"):
        load_recipe("x.yaml")


def test_overrides_are_checked_set_and_remembered() -> None:
    Path("x.yaml").write_text(MINIMAL + "training: {max_steps: 10}\n", encoding="utf-8")
    loaded = read_recipe("x.yaml", ["training.max_steps=null", " data.split.test = 0.2", "seed=1", "seed=2"])
    assert (loaded.recipe.training.max_steps, loaded.recipe.data.split.test, loaded.recipe.seed) == (None, 0.2, 2)
    origins = loaded.origins
    assert origins["task.type"] == "x.yaml:1"
    assert origins["training.max_steps"] == "override 'training.max_steps=null'"
    assert origins["data.split.test"] == "override ' data.split.test = 0.2'"
    assert origins["seed"] == "override 'seed=2'"
    assert origins["data.split.validation"] == origins["base.source"] == "default"


def test_an_override_of_a_section_replaces_all_of_it() -> None:
    Path("x.yaml").write_text(MINIMAL + "training: {max_steps: 10, eval_steps: 5}\n", encoding="utf-8")
    loaded = read_recipe("x.yaml", ["training={max_steps: 20}"])
    assert (loaded.recipe.training.max_steps, loaded.recipe.training.eval_steps) == (20, None)
    assert loaded.origins["training.max_steps"] == "override 'training={max_steps: 20}'"
    assert loaded.origins["training.eval_steps"] == "default"


WRONG_OVERRIDES = {
    "training.x=1": "training.x: unknown key; known here: per_device_train_batch_size, ",
    "trainig.max_steps=1": "trainig: unknown key; did you mean 'training'?",
    "training.max_steps=0": "training.max_steps: must be a whole number (above 0) or null, not 0",
    "training.max_steps.x=1": "training.max_steps: must be a whole number (above 0) or null, not {x: 1}",
    "output.license=7": "output.license: must be text or null, not 7; put it in quotes",
    "data={source: a, source: b}": "data.source: duplicate key; given before at override 'data={source: a, source: b}'",
    "data.columns={'': text}": "data.columns.'': must not be empty",
    "training.max_steps=": "must look like training.learning_rate=2e-4",
    "training..max_steps=1": "must look like training.learning_rate=2e-4",
    "base.source=*a": "not valid YAML: a recipe has no & * or ! before a value",
}


@pytest.mark.parametrize(("override", "message"), WRONG_OVERRIDES.items())
def test_wrong_override_is_named_in_place_of_the_line(override: str, message: str) -> None:
    (line,) = faults(MINIMAL, [override])
    assert line.startswith(f"override {override!r}  {message}")


def test_a_file_that_cannot_be_a_recipe(tmp_path: Path) -> None:
    Path("folder").mkdir()
    Path("latin.yaml").write_bytes(b"task:\n  type: caf\xe9\n")
    Path("big.yaml").write_bytes(b"#" * 1_000_001)
    wrong = {
        "folder": "folder: is a folder, not a recipe",
        "latin.yaml": "latin.yaml:2: is not UTF-8 text (byte 0xe9); save it as UTF-8",
        "big.yaml": "big.yaml: is larger than 1000000 bytes; a recipe has a few dozen lines",
        "latin.yaml/x": "latin.yaml/x: cannot be read: Not a directory",
        "a\0b": "a\0b: cannot be read: embedded null byte",
    }
    for path, message in wrong.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value) == message


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one recipe, one folder down."""
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "pefttune")
    (tmp_path / "recipes" / "sentiment").mkdir(parents=True)
    (tmp_path / "recipes" / "sentiment" / "film-sentiment.yaml").write_text(MINIMAL, encoding="utf-8")
    return tmp_path


def test_shipped_recipes_are_found_in_a_checkout_and_in_a_wheel(checkout: Path) -> None:
    assert shipped_recipes() == {"film-sentiment": checkout / "recipes" / "sentiment" / "film-sentiment.yaml"}
    in_wheel = checkout / "pefttune" / "_recipes" / "tweets.yaml"
    in_wheel.parent.mkdir(parents=True)
    in_wheel.touch()
    assert shipped_recipes() == {"tweets": in_wheel}


def test_a_shipped_recipe_is_loaded_by_name_unless_a_file_has_that_name(checkout: Path) -> None:
    assert load_recipe("film-sentiment").output.name == "film"
    assert load_recipe("film-sentiment.yaml").output.name == "film"
    Path("film-sentiment").write_text(MINIMAL.replace("name: film", "name: mine"), encoding="utf-8")
    assert load_recipe("film-sentiment").output.name == "mine"


def test_a_missing_file_lists_close_names(checkout: Path) -> None:
    Path("mine.yaml").touch()
    wrong = {
        "flim-sentiment": "flim-sentiment: no such file; did you mean 'film-sentiment'?",
        "elsewhere/film-sentiment.yaml": "elsewhere/film-sentiment.yaml: no such file; did you mean 'film-sentiment'?",
        "mien.yaml": "mien.yaml: no such file; did you mean 'mine.yaml'?",
        "qqq": "qqq: no such file; shipped recipes: film-sentiment",
    }
    for path, message in wrong.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value) == message


def test_resolved_recipe_is_complete_and_comes_back_from_json_and_yaml() -> None:
    overrides = [
        "data.label_bins={a: {above: 0}, b: {below: 0}}",
        "data.test=[a.bio, b.bio]",
        "training.learning_rate=1e-5",
    ]
    recipe = load(MINIMAL, overrides)
    assert recipe.data.test == ("a.bio", "b.bio")
    mapping = json.loads(json.dumps(to_mapping(recipe)))
    assert mapping["adapter"] == {
        "method": "lora",
        "r": 8,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "layers": None,
        "use_rslora": False,
    }
    assert recipe_from_mapping(mapping, "pefttune.json") == recipe
    assert load(resolved_yaml(recipe)) == recipe
    assert yaml.safe_load(resolved_yaml(recipe)) == mapping


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, unique=True))
def test_any_text_comes_back_from_the_resolved_recipe(labels: list[str]) -> None:
    recipe = recipe_from_mapping(
        {**yaml.safe_load(MINIMAL), "task": {"type": "text-classification", "labels": labels}}, ""
    )
    assert load(resolved_yaml(recipe)) == recipe


@pytest.mark.parametrize(
    "label", ["1e-4", "08", "1_000", "null", "~", "true", "yes", "=", "<<", "a: b", "#", "é", "\n"]
)
def test_text_that_looks_like_something_else_comes_back_as_text(label: str) -> None:
    labels = [label, "other"]
    recipe = recipe_from_mapping(
        {**yaml.safe_load(MINIMAL), "task": {"type": "text-classification", "labels": labels}}, ""
    )
    assert load(resolved_yaml(recipe)).task.labels == (label, "other")
    assert yaml.safe_load(resolved_yaml(recipe))["task"]["labels"] == labels


def test_stored_recipe_gets_the_same_sentences() -> None:
    stored: dict[str, Any] = yaml.safe_load(MINIMAL)
    stored["training"] = {"learing_rate": True, "max_steps": True}
    with pytest.raises(RecipeError) as caught:
        recipe_from_mapping(stored, "adapters/film/1/pefttune.json")
    assert str(caught.value).splitlines() == [
        "adapters/film/1/pefttune.json  training.max_steps: must be a whole number (above 0) or null, not true",
        "adapters/film/1/pefttune.json  training.learing_rate: unknown key; did you mean 'learning_rate'?",
    ]
    with pytest.raises(RecipeError, match=r"^x  is not a recipe: a recipe is a mapping"):
        recipe_from_mapping([], "x")


class Low(Section):
    method: Literal["low"]
    r: int = Field(1, gt=0)
    alpha: float = 1.0


class Wide(Section):
    method: Literal["wide"]
    r: int = Field(1, gt=64)
    layers: Indices | Literal["all"] = "all"


class Many(Section):
    adapter: Annotated[Low | Wide, Field(discriminator="method")]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"method": "lwo"}, "adapter.method: 'lwo' is not one of: low, wide; did you mean 'low'?"),
        ({"r": 4}, "adapter.method: missing key; one of: low, wide"),
        ({"method": "wide", "r": 4}, "adapter.r: must be a whole number (above 64), not 4"),
        ({"method": "wide", "alpha": 4}, "adapter.alpha: unknown key; known here: method, r, layers"),
        ({"method": "wide", "layers": [3, 3]}, "adapter.layers: 3 stands here 2 times"),
        ("wide", "adapter: must be a section, not 'wide'"),
    ],
)
def test_where_a_method_chooses_the_section_its_name_stays_out_of_the_path(adapter: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Many.model_validate({"adapter": adapter})
    assert sentences(caught.value, {"adapter": adapter}, {(): "x"}, Slot(Many)) == [f"x  {message}"]


def test_loading_a_right_and_a_wrong_recipe_imports_no_torch() -> None:
    Path("x.yaml").write_text(MINIMAL, encoding="utf-8")
    code = """
import sys
from pefttune.recipe import explain, load_recipe, read_recipe
explain("training", read_recipe("x.yaml"))
try:
    load_recipe("x.yaml", ["training.x=1"])
except Exception as error:
    assert type(error).__name__ == "RecipeError", error
else:
    raise SystemExit("the wrong recipe was loaded")
heavy = {"torch", "numpy", "transformers", "peft", "datasets", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
