"""The arithmetic of successive halving, and the recipes that are trained on the way."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from pefttune.sweep.halving import rungs, shortened

NINTH, THIRD, ALL = Fraction(1, 9), Fraction(1, 3), Fraction(1)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (1, [(ALL, 1)]),
        (2, [(THIRD, 2), (ALL, 1)]),
        (3, [(THIRD, 3), (ALL, 1)]),
        (4, [(NINTH, 4), (THIRD, 2), (ALL, 1)]),
        (9, [(NINTH, 9), (THIRD, 3), (ALL, 1)]),
        (10, [(NINTH, 10), (THIRD, 4), (ALL, 2)]),
        (27, [(NINTH, 27), (THIRD, 9), (ALL, 3)]),
    ],
)
def test_a_third_goes_on_for_three_times_the_steps(trials: int, expected: list[tuple[Fraction, int]]) -> None:
    assert [(rung.share, rung.trials) for rung in rungs(trials)] == expected


def test_a_share_of_the_steps_is_evaluated_at_its_end(recipe_of: Any) -> None:
    own = {"training.num_train_epochs": 3, "training.early_stopping_patience": 1, "training.report_to": ["tensorboard"]}
    short = shortened(recipe_of(own), NINTH, "trial-1")
    assert short.training.num_train_epochs == pytest.approx(1 / 3)
    assert short.training.max_steps is None
    assert short.training.early_stopping_patience is None
    assert short.training.eval_steps > 10**6
    assert short.training.report_to == ()
    assert short.output.name == "trial-1"
    limited = recipe_of({"training.max_steps": 20})
    assert [shortened(limited, share, "x").training.max_steps for share in (NINTH, THIRD)] == [3, 7]


def test_all_steps_are_those_of_the_recipe_itself(recipe_of: Any) -> None:
    recipe = recipe_of({"training.max_steps": 20, "training.eval_steps": 5})
    assert shortened(recipe, ALL, recipe.output.name) == recipe
