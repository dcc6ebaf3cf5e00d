"""What a recipe leaves open is chosen here, by rules that say why; docs/defaults.md has their sources in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pefttune.recipe.adapters import LEAST_RANK_BY_RULE, Lora, LowRank, Method
from pefttune.recipe.schema import Recipe

LARGEST_RANK_BY_RULE = 256
ALPHA_BY_RULE = 32
FULL_TUNING_RATE = 5e-5
TIMES_FULL_TUNING = 10
WIDTH_OF_THAT_RATE = 2000
# How fast the best rate falls with the width, by the kind of model, as thinkingmachines.ai fitted it over 14 models.
POWERS_OF_WIDTH = {"llama": 0.781, "qwen": 0.0775}
RHO = 2.0
REGRET = "“LoRA Without Regret”, thinkingmachines.ai 2025"


@dataclass(frozen=True)
class Choice:
    """A value chosen for a key that the recipe leaves open, and why; None where it is not known yet."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class BaseShape:
    """What the rules ask of a base: `model_type` and `hidden_size` of its config."""

    model_type: str
    hidden_size: int


@dataclass(frozen=True)
class Workload:
    """What there is to learn, and what a LoRA on this base has room for."""

    rows: int
    labelled_tokens: int
    """Of all training rows, read once."""
    parameters_per_rank: int
    """Of the layers to adapt, together."""
    largest_rank: int
    """That all of them can have."""


def choose(recipe: Recipe, shape: BaseShape | None = None, work: Workload | None = None) -> list[Choice]:
    """A choice for each key that the recipe leaves to a rule, without a value where what the rule asks is not given."""
    section = recipe.adapter
    choices: list[Choice] = []
    if isinstance(section, LowRank) and section.r is None:
        choices.append(_rank(section, work))
        if section.lora_alpha is None and not section.use_rslora:
            why = "with lora_alpha / r the same learning rate serves every rank"
            choices.append(Choice("adapter.lora_alpha", ALPHA_BY_RULE, f"{why} ({REGRET})"))
    if recipe.training.learning_rate is None:
        choices.append(_learning_rate(section, shape))
    return choices


def applied(recipe: Recipe, choices: Sequence[Choice]) -> Recipe:
    """The recipe with what was chosen for it."""
    for choice in choices:
        section, _, key = choice.key.partition(".")
        changed = getattr(recipe, section).model_copy(update={key: choice.value})
        recipe = recipe.model_copy(update={section: changed})
    return recipe


def shape_of(config: Mapping[str, Any]) -> BaseShape | None:
    """That of a base's `config.json`, where it says so."""
    config = config.get("text_config", config)
    width = next((config[key] for key in ("hidden_size", "d_model", "n_embd", "dim") if key in config), None)
    kind = config.get("model_type")
    return BaseShape(kind, width) if isinstance(kind, str) and isinstance(width, int) and width > 0 else None


def _rank(section: LowRank, work: Workload | None) -> Choice:
    if isinstance(section, Lora) and section.budget is not None:
        told = f"the mean that {section.budget:,} parameters allow; single ranks by what explains most for its cost"
        mean = None if work is None else max(1, section.budget // work.parameters_per_rank)
        return Choice("adapter.r", mean, f"{told} (after EVA, arXiv:2410.07170)")
    rule = f"at least as many parameters as labelled tokens, {LEAST_RANK_BY_RULE} to {LARGEST_RANK_BY_RULE} ({REGRET})"
    if work is None:
        return Choice("adapter.r", None, f"{rule}; known when the training rows are read")
    largest = min(LARGEST_RANK_BY_RULE, work.largest_rank)
    r = max(1, min(LEAST_RANK_BY_RULE, largest))  # of layers that have room for none, attaching tells
    while r * work.parameters_per_rank < work.labelled_tokens and 2 * r <= largest:
        r *= 2
    told = (
        f"{work.rows:,} rows with about {work.labelled_tokens:,} labelled tokens, {work.parameters_per_rank:,} "
        "parameters a rank"
    )
    return Choice("adapter.r", r, f"{rule}; {told}")


def _learning_rate(section: Method, shape: BaseShape | None) -> Choice:
    key = "training.learning_rate"
    if section.rate is not None:
        rate, why = section.rate
        return Choice(key, rate, why)
    rule = f"{TIMES_FULL_TUNING} times the rate of full fine-tuning, the less the wider the base ({REGRET})"
    if shape is None:
        return Choice(key, None, f"{rule}; known when the base's config is read")
    by_width = {
        kind: TIMES_FULL_TUNING * FULL_TUNING_RATE * (WIDTH_OF_THAT_RATE / shape.hidden_size) ** power
        for kind, power in POWERS_OF_WIDTH.items()
    }
    kind = next((kind for kind in by_width if shape.model_type.startswith(kind)), None)
    rate = by_width[kind] if kind else min(by_width.values())
    told = f"{shape.model_type}, {shape.hidden_size} wide"
    told += "" if kind else ", of a kind that was not fitted, so the lower of both known slopes"
    return Choice(key, float(f"{rate:.2g}"), f"{rule}; {told}")
