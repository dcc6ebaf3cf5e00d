"""What rules choose for keys that a recipe leaves open, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from pefttune.errors import RecipeError
from pefttune.recipe import BaseShape, Workload, applied, choose, shape_of
from pefttune.recipe.adapters import Lora

LLAMA = BaseShape("llama", 2048)
FEW = Workload(rows=1600, labelled_tokens=3200, parameters_per_rank=300_000, largest_rank=192)


def chosen(recipe: Any, shape: BaseShape | None = LLAMA, work: Workload | None = FEW) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(recipe, shape, work)}


def test_what_is_stated_is_left_alone(load: Any, minimal: str) -> None:
    stated = load(minimal, ["adapter={method: lora, r: 4}", "training.learning_rate=1e-3"])
    assert choose(stated, LLAMA, FEW) == []
    assert chosen(load(minimal, ["adapter={method: lora, lora_alpha: 3}"])).keys() == {
        "adapter.r",
        "training.learning_rate",
    }
    assert "adapter.lora_alpha" not in chosen(load(minimal, ["adapter={method: lora, use_rslora: true}"]))
    assert chosen(load(minimal, ["adapter={method: ia3}"])) == {"training.learning_rate": 5e-3}


def test_all_is_chosen_and_applied(load: Any, minimal: str) -> None:
    recipe = load(minimal, ["adapter={method: lora}"])
    choices = choose(recipe, LLAMA, FEW)
    done = applied(recipe, choices)
    assert (done.adapter.r, done.adapter.lora_alpha, done.training.learning_rate) == (8, 32, 4.9e-4)
    assert choose(done, LLAMA, FEW) == []
    assert "LoRA Without Regret" in choices[0].why
    assert "1,600 rows with about 3,200 labelled tokens" in choices[0].why


@pytest.mark.parametrize(
    ("tokens", "largest", "r"),
    [
        (0, 192, 8),
        (8 * 300_000, 192, 8),
        (8 * 300_000 + 1, 192, 16),
        (10**9, 192, 128),  # the narrowest layer has no 256
        (10**9, 4096, 256),
        (10**9, 5, 5),
    ],
)
def test_the_rank_has_room_for_the_labelled_tokens(load: Any, minimal: str, tokens: int, largest: int, r: int) -> None:
    recipe = load(minimal, ["adapter={method: lora}"])
    assert chosen(recipe, LLAMA, Workload(1, tokens, 300_000, largest))["adapter.r"] == r


@pytest.mark.parametrize(
    ("kind", "width", "rate"),
    [
        ("llama", 576, 1.3e-3),  # SmolLM2
        ("llama", 4096, 2.9e-4),  # as tinker-cookbook's get_lr has it
        ("qwen3", 2560, 4.9e-4),
        ("bert", 384, 5.7e-4),  # the lower one of both kinds
        ("gemma3_text", 4096, 2.9e-4),
    ],
)
def test_the_learning_rate_falls_with_the_width(load: Any, minimal: str, kind: str, width: int, rate: float) -> None:
    assert chosen(load(minimal), BaseShape(kind, width))["training.learning_rate"] == rate


def test_without_base_and_rows_only_the_rules_are_told(load: Any, minimal: str) -> None:
    choices = choose(load(minimal, ["adapter={method: lora}"]))
    assert [choice.value for choice in choices] == [None, 32, None]
    assert "known when the training rows are read" in choices[0].why
    assert "known when the base's config is read" in choices[2].why


def test_a_budget_gives_the_mean_rank(load: Any, minimal: str) -> None:
    recipe = load(minimal, ["adapter={method: lora, budget: 2M}"])
    assert chosen(recipe)["adapter.r"] == 6
    assert chosen(load(minimal, ["adapter={method: lora, budget: 1000}"]))["adapter.r"] == 1


@pytest.mark.parametrize(("text", "number"), [("2M", 2_000_000), ("500k", 500_000), ("1.5m", 1_500_000), ("70", 70)])
def test_a_budget_in_words(load: Any, minimal: str, text: str, number: int) -> None:
    assert load(minimal, [f"adapter={{method: lora, budget: {text}}}"]).adapter.budget == number


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("budget: lots", "adapter.budget: 'lots' is no number of parameters; write one such as 500k, 2M or 2000000"),
        ("budget: -2M", "adapter.budget: '-2M' is no number of parameters"),
        ("budget: 0", "adapter.budget: must be a whole number (above 0) or null, not 0"),
        ("budget: 1.5", "adapter.budget: must be a whole number (above 0) or null, not 1.5"),
        ("budget: 2M, r: 4", "the ranks come from the budget, so leave out r, or the budget"),
        (
            "budget: 2M, rank_pattern: {a: 4}",
            "the ranks come from the budget, so leave out rank_pattern, or the budget",
        ),
        ("rho: 3", "nothing asks for measured ranks: leave it out, or set `budget` or `init_lora_weights: eva`"),
        (
            "rank_pattern: {a: 0, b: 2}, alpha_pattern: {b: 4, a: 8}",
            "adapter.alpha_pattern: a has rank 0 in rank_pattern, which leaves it as it is, so that there is nothing",
        ),
        (
            "rank_pattern: {a: -1}",
            "adapter.rank_pattern.a: must be a whole number (at least 0 and at most 1024), not -1",
        ),
        ("init_lora_weights: evil", "adapter.init_lora_weights: 'evil' is not one of: default, gaussian, pissa"),
    ],
)
def test_ranks_that_cannot_be_asked_for(faults: Any, minimal: str, section: str, told: str) -> None:
    (fault,) = faults(minimal, [f"adapter={{method: lora, {section}}}"])
    assert told in fault


def test_sections_stored_before_are_read_as_they_were() -> None:
    old = {"method": "lora", "r": 2, "lora_alpha": None, "lora_dropout": 0.0, "target_modules": "all-linear"}
    section = Lora.model_validate({**old, "layers": "top-15", "use_rslora": False})
    assert (section.rank, section.rank_pattern, section.init_lora_weights) == (2, {}, "default")


def test_the_shape_of_a_base() -> None:
    assert shape_of({"model_type": "llama", "hidden_size": 576}) == BaseShape("llama", 576)
    assert shape_of({"model_type": "t5", "d_model": 512}) == BaseShape("t5", 512)
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560}}
    assert shape_of(nested) == BaseShape("gemma3_text", 2560)
    assert shape_of({"model_type": "odd"}) is None


def test_unknown_words_are_told_at_once(load: Any, minimal: str) -> None:
    with pytest.raises(RecipeError, match="did you mean 'rank_pattern'"):
        load(minimal, ["adapter={method: lora, rank_patern: {}}"])
