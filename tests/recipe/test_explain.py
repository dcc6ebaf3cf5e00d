"""What is said of each key, and that the keys are these, frozen, strict, and shown by an example that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pefttune.errors import RecipeError
from pefttune.recipe import LoadedRecipe, all_keys, explain, load_recipe, read_recipe
from pefttune.recipe.adapters import METHODS

LEAVES = {
    "task.type",
    "task.approach",
    "task.labels",
    "task.attention",
    "task.instruction",
    "task.problem_type",
    "task.stride",
    "task.max_answer_length",
    "task.max_new_tokens",
    "task.min_new_tokens",
    "task.num_beams",
    "task.system",
    "task.answer_after",
    "base.source",
    "base.revision",
    "base.quantization",
    "base.double_quantization",
    "base.dtype",
    "base.device",
    "data.source",
    "data.train",
    "data.validation",
    "data.test",
    "data.revision",
    "data.config_name",
    "data.format",
    "data.column_names",
    "data.columns",
    "data.label_bins",
    "data.split.validation",
    "data.split.test",
    "data.max_train_samples",
    "data.max_eval_samples",
    "data.max_test_samples",
    "data.max_length",
    "data.too_long",
    "data.max_bad_rows",
    "adapter.method",
    "adapter.r",
    "adapter.rank_pattern",
    "adapter.alpha_pattern",
    "adapter.budget",
    "adapter.init_lora_weights",
    "adapter.rho",
    "adapter.lora_alpha",
    "adapter.lora_dropout",
    "adapter.target_modules",
    "adapter.layers",
    "adapter.warm_start",
    "adapter.use_rslora",
    "adapter.loraplus_lr_ratio",
    "adapter.init_r",
    "adapter.target_r",
    "adapter.tinit",
    "adapter.tfinal",
    "adapter.deltaT",
    "adapter.orth_reg_weight",
    "adapter.feedforward_modules",
    "adapter.oft_block_size",
    "adapter.boft_block_size",
    "adapter.boft_n_butterfly_factor",
    "adapter.placement",
    "adapter.reduction_factor",
    "adapter.non_linearity",
    "adapter.scaling",
    "adapter.dropout",
    "adapter.num_virtual_tokens",
    "adapter.prompt_tuning_init",
    "adapter.prompt_tuning_init_text",
    "adapter.encoder_reparameterization_type",
    "adapter.encoder_hidden_size",
    "adapter.tokens",
    "adapter.adapters",
    "adapter.members",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.max_batch_tokens",
    "training.cache_frozen_layers",
    "training.num_train_epochs",
    "training.max_steps",
    "training.learning_rate",
    "training.lr_scheduler_type",
    "training.warmup_ratio",
    "training.weight_decay",
    "training.max_grad_norm",
    "training.eval_steps",
    "training.load_best_model_at_end",
    "training.early_stopping_patience",
    "training.report_to",
    "evaluation.bootstrap_samples",
    "evaluation.confidence_level",
    "output.name",
    "output.store",
    "output.runs",
    "output.license",
    "seed",
}


TYPES = {  # of the tasks whose keys text classification has not
    "task.attention": "token-classification",
    "task.stride": "token-classification",
    "task.max_answer_length": "question-answering",
    "task.max_new_tokens": "summarization",
    "task.min_new_tokens": "summarization",
    "task.num_beams": "text-generation",
    "task.system": "text-generation",
    "task.answer_after": "text-generation",
}


REQUIRED = {"trainable_tokens": "trainable_tokens, tokens: [a]", "fusion": "fusion, adapters: [a, b]"}
# A method that has the key, LoRA where that has it, with what it cannot be without.
WITH_KEY = {
    f"adapter.{key}": REQUIRED.get(method, method)
    for method, section in [*METHODS.items(), ("lora", METHODS["lora"])]
    for key in section.model_fields
} | {"adapter.prompt_tuning_init_text": "prompt_tuning, prompt_tuning_init: text, prompt_tuning_init_text: a"}


@pytest.fixture
def file_of(tmp_path: Path) -> Any:
    """A recipe that has the key."""

    def write(key: str) -> Path:
        path = tmp_path / "x.yaml"
        path.write_text(
            f"task: {{type: {TYPES.get(key, 'text-classification')}}}\n"
            f"data: {{source: r.csv}}\noutput: {{name: film}}\nadapter: {{method: {WITH_KEY.get(key, 'lora')}}}\n",
            encoding="utf-8",
        )
        return path

    return write


@pytest.fixture
def loaded(file_of: Any) -> LoadedRecipe:
    return read_recipe(file_of("seed"), ["training.learning_rate=2e-4"])


def test_the_keys_are_these() -> None:
    """A new knob shows here, as a line of the diff."""
    keys = list(all_keys())
    assert len(keys) == len(set(keys))
    assert set(keys) == LEAVES


@pytest.mark.parametrize("key", sorted(LEAVES))
def test_every_key_is_frozen(key: str, file_of: Any) -> None:
    *sections, name = key.split(".")
    section: Any = load_recipe(file_of(key))
    for each in sections:
        section = getattr(section, each)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, name, getattr(section, name))


@pytest.mark.parametrize("key", sorted(LEAVES))
def test_every_key_has_a_meaning_and_an_example_that_loads(key: str, file_of: Any) -> None:
    found, file = explain(key), file_of(key)
    assert found.meaning.endswith(".")
    # Numbers and lists of labels need a head, and rho something that measures.
    needs = {"task.problem_type": "task.approach=head", "adapter.rho": "adapter.init_lora_weights=eva"}
    needed = [needs[key]] if key in needs else []
    override = f"{key}={found.example}"
    assert read_recipe(file, [*needed, override]).origins[key] == f"override {override!r}"
    assert found.example != "null", "an example must show a value"


@pytest.mark.parametrize("key", sorted(LEAVES))
def test_no_key_takes_a_boolean_for_anything_else(key: str, file_of: Any) -> None:
    override, file = f"{key}=true", file_of(key)
    if explain(key).type == "true or false":
        load_recipe(file, [override])
    else:
        with pytest.raises(RecipeError, match=r"not true|true is not"):
            load_recipe(file, [override])


def test_a_key_in_words() -> None:
    found = explain("adapter.oft_block_size")
    assert (found.meaning, found.type, found.bounds) == (
        "Numbers that a block turns among themselves.",
        "a whole number",
        "above 1",
    )
    assert (found.default, found.choices, found.unit, found.value, found.origin, found.keys) == (
        "32",
        (),
        None,
        None,
        None,
        (),
    )


def test_choices_units_and_required_keys() -> None:
    assert explain("base.quantization").choices == ("nf4", "fp4", "int8", "none")
    assert explain("data.max_length").unit == "tokens"
    assert (explain("output.name").default, explain("output.name").example) == (None, "film-sentiment")
    assert explain("data.label_bins").default == "null"
    assert explain("training.learning_rate").default == "null"
    assert explain("adapter.r").default == "null (lora, dora), 256 (vera), 64 (miss), 2 (fusion)"
    assert explain("adapter.target_modules").default == "all-linear, null (ia3)"
    assert explain("adapter.r").bounds == "above 0 and at most 1024, above 0 and at most 2048 (vera)"


def test_value_and_origin_in_a_recipe(loaded: LoadedRecipe) -> None:
    learning_rate, source, r = (explain(key, loaded) for key in ("training.learning_rate", "data.source", "adapter.r"))
    assert (learning_rate.value, learning_rate.origin) == ("0.0002", "override 'training.learning_rate=2e-4'")
    assert source.value == "r.csv"
    assert source.origin is not None
    assert source.origin.endswith("x.yaml:2")
    assert (r.value, r.origin) == ("null", "default")


def test_a_key_of_several_tasks_is_explained_for_each() -> None:
    found = explain("task.stride")
    assert found.kinds == ("token-classification", "question-answering")
    assert found.meaning == (
        "token-classification: Overlap of the windows into which a text longer than `data.max_length` is cut.\n"
        "question-answering: Overlap of the windows into which a passage longer than `data.max_length` is cut."
    )
    assert found.default == "64 (token-classification), 128 (question-answering)"
    assert explain("task.num_beams").meaning == "Beams of the search; 1 is greedy."  # what they have in common
    assert explain("task.type").kinds == ()  # all have it


@pytest.mark.parametrize("key", ["task", "adapter"])
def test_nothing_is_said_twice(key: str) -> None:
    for each in explain(key).keys:
        told = [line.rpartition(": ")[2] for line in explain(each).meaning.splitlines()]
        assert len(told) == len(set(told)), each


def test_what_most_say_is_told_first_and_without_their_names() -> None:
    first, of_ia3 = explain("adapter.target_modules").meaning.splitlines()
    assert first.startswith("Names of the modules to adapt")
    assert of_ia3.startswith("ia3: Names of the modules whose numbers are scaled.")


def test_the_key_of_another_task_has_no_value_in_a_recipe(loaded: LoadedRecipe) -> None:
    found = explain("task.stride", loaded)
    assert (found.value, found.origin) == (None, None)


def test_a_section_lists_its_keys(loaded: LoadedRecipe) -> None:
    found = explain("data.split", loaded)
    assert (found.type, found.keys) == ("a section", ("data.split.validation", "data.split.test"))
    assert (found.default, found.example, found.value, found.origin) == (None, None, None, None)
    assert "data.split" in explain("data").keys


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.learing_rate", "unknown key; did you mean 'learning_rate'?"),
        ("learning_rate", "unknown key here; it belongs to training"),
        ("trainin.max_steps", "unknown key; did you mean 'training'?"),
        ("seed.x", "unknown key; seed has no keys below it"),
        ("data.label_bins.positive", "unknown key; data.label_bins has no keys below it"),
    ],
)
def test_unknown_key(key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        explain(key)
    assert str(caught.value) == f"{key}: {message}"
