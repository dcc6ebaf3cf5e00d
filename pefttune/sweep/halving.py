"""Successive halving (arXiv:1502.07943), with Hyperband's reduction by three (arXiv:1603.06560): short trainings of
all trials, longer ones of the better third, whole ones of the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pefttune.recipe import Recipe

REDUCTION = 3
MOST_RUNGS = 3
AT_THE_END_ONLY = 10**9
"""`training.eval_steps` of more steps than any training has."""


@dataclass(frozen=True)
class Rung:
    """How many trials are trained, for what share of their recipes' own steps."""

    share: Fraction
    trials: int


def rungs(trials: int) -> list[Rung]:
    """The rungs of so many trials: each has a third of those of the rung before, rounded up, and three times the steps;
    the last has all steps."""
    sizes = [trials]
    while sizes[-1] > 1 and len(sizes) < MOST_RUNGS:
        sizes.append(math.ceil(sizes[-1] / REDUCTION))
    last = len(sizes) - 1
    return [Rung(Fraction(1, REDUCTION ** (last - rung)), size) for rung, size in enumerate(sizes)]


def shortened(recipe: Recipe, share: Fraction, name: str) -> Recipe:
    """The recipe with that share of its steps, told as `name`: a whole training, with its own warm-up and decay, so
    that a high learning rate is not judged before it has come down. A share of 1 is evaluated as the recipe wants, a
    smaller one at its end."""
    training = recipe.training
    update: dict[str, Any] = {"report_to": ()}
    if share < 1:
        update |= {"eval_steps": AT_THE_END_ONLY, "early_stopping_patience": None}
        if training.max_steps is None:
            update["num_train_epochs"] = float(training.num_train_epochs * share)
        else:
            update["max_steps"] = math.ceil(training.max_steps * share)
    return recipe.model_copy(
        update={
            "training": training.model_copy(update=update),
            "output": recipe.output.model_copy(update={"name": name}),
        }
    )
