"""Every fault of a recipe is one exact sentence with its place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field, ValidationError

from pefttune.errors import RecipeError
from pefttune.recipe import recipe_from_mapping
from pefttune.recipe.adapters import METHODS
from pefttune.recipe.faults import sentences
from pefttune.recipe.keys import Slot
from pefttune.recipe.types import Indices, Section

# What is added to the minimal recipe, from line 4 on → the one fault.
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
        f"x.yaml:5  adapter.method: 'loar' is not one of: {', '.join(METHODS)}; did you mean 'lora'?",
    ),
    "a text to begin with that is not read": (
        "adapter:\n  method: prompt_tuning\n  prompt_tuning_init_text: Good?",
        "x.yaml:4  adapter: `prompt_tuning_init_text` is read with `prompt_tuning_init: text` only; set that, too",
    ),
    "two beginnings": (
        "adapter: {method: lora, init_lora_weights: pissa, warm_start: film}",
        "x.yaml:4  adapter: `init_lora_weights: pissa` and `warm_start` both say where A and B begin; leave one of "
        "them out",
    ),
    "no method": (
        "adapter: {r: 4}",
        f"x.yaml:4  adapter.method: missing key; one of: {', '.join(METHODS)}",
    ),
    "key of another method": (
        "adapter:\n  method: head\n  r: 8",
        "x.yaml:6  adapter.r: unknown key here; it belongs to `method: lora` or `method: dora` or `method: vera` or "
        "`method: miss` or `method: fusion`",
    ),
    "misspelt key of a method without any": (
        "adapter: {method: head, learing_rate: 1}",
        "x.yaml:4  adapter.learing_rate: unknown key; did you mean 'training.learning_rate'?",
    ),
    "a head alone, where none is trained": (
        "adapter: {method: head}",
        "x.yaml:4  adapter: `method: head` trains the task's head alone, but this text-classification is answered in "
        "words, without a head: set `task.approach: head`, or take `method: lora`",
    ),
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
        "x.yaml:4  training.learning_rate: must be a number (above 0) or null, not 'fast'",
    ),
    "text for a whole number": (
        "training: {max_steps: many}",
        "x.yaml:4  training.max_steps: must be a whole number (above 0) or null, not 'many'",
    ),
    "fraction for a whole number": (
        "adapter: {method: lora, r: 8.5}",
        "x.yaml:4  adapter.r: must be a whole number (above 0 and at most 1024) or null, not 8.5",
    ),
    "a rank that no reader takes": (
        "adapter: {method: vera, r: 2049}",
        "x.yaml:4  adapter.r: must be a whole number (above 0 and at most 2048), not 2049",
    ),
    "too many factors": (
        "adapter: {method: boft, boft_n_butterfly_factor: 17}",
        "x.yaml:4  adapter.boft_n_butterfly_factor: must be a whole number (above 0 and at most 16), not 17",
    ),
    "a weight beyond float32": (
        "adapter: {method: adalora, orth_reg_weight: 1e308}",
        "x.yaml:4  adapter.orth_reg_weight: must be a number (at least 0 and at most 65536), not 1.0e+308",
    ),
    "boolean for a number": (
        "adapter: {method: lora, r: true}",
        "x.yaml:4  adapter.r: must be a whole number (above 0 and at most 1024) or null, not true",
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


@pytest.mark.parametrize("task", ["summarization", "text-generation"])
def test_a_head_alone_needs_a_task_with_a_head(faults: Any, minimal: str, task: str) -> None:
    assert faults(minimal.replace("text-classification", task) + "adapter:\n  method: head") == [
        f"x.yaml:4  adapter: `method: head` trains the task's head alone, but this {task} is answered in words, "
        "without a head: take `method: lora`"
    ]


@pytest.mark.parametrize(("addition", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_recipe_gives_exactly_this_fault(faults: Any, minimal: str, addition: str, message: str) -> None:
    assert faults(minimal + addition) == [message]


def test_missing_sections_and_keys_are_named_at_the_line_of_their_parent(faults: Any) -> None:
    assert faults("# a comment\nseed: 1\noutput:\n  license: MIT\n") == [
        "x.yaml:2  task: missing section; it needs type",
        "x.yaml:2  data: missing key",
        "x.yaml:3  output.name: missing key",
    ]


def test_data_must_have_a_source(faults: Any, minimal: str) -> None:
    assert faults(minimal.replace("source: reviews.csv", "max_length: 9")) == [
        "x.yaml:2  data: give `source` (one source, to be split) or `train` (a file)"
    ]


def test_all_faults_are_in_one_error_in_the_order_of_the_file_and_then_of_the_overrides(faults: Any) -> None:
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
        # Which keys the task has is not known, so its labels are not looked at.
        "x.yaml:4  task.type: 'text-classificatio' is not one of: text-classification, token-classification, "
        "question-answering, summarization, text-generation; did you mean 'text-classification'?",
        "x.yaml:7  data.split.test: must be a number (at least 0 and below 1), not 2",
        "override 'base.dtype=float23'  base.dtype: 'float23' is not one of: auto, float32, bfloat16, float16; "
        "did you mean 'float32'?",
    ]


def test_stored_recipe_gets_the_same_sentences(minimal: str) -> None:
    stored: dict[str, Any] = yaml.safe_load(minimal)
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
        ({"method": "wide", "alpha": 4}, "adapter.alpha: unknown key here; it belongs to `method: low`"),
        ({"method": "wide", "layers": [3, 3]}, "adapter.layers: 3 stands here 2 times"),
        ("wide", "adapter: must be a section, not 'wide'"),
    ],
)
def test_where_a_method_chooses_the_section_its_name_stays_out_of_the_path(adapter: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Many.model_validate({"adapter": adapter})
    assert sentences(caught.value, {"adapter": adapter}, {(): "x"}, Slot(Many)) == [f"x  {message}"]
