"""Numbers that are not finite stop training before they reach a weight."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pefttune.errors import NonFiniteError
from pefttune.training.guards import check_finite


def spoiled(toy: Any, at_step: int, spoil: Any) -> Tensor:
    """The weights before step `at_step`, whose loss `spoil` makes of the honest one."""
    honest, kept = toy.loss, []

    def loss(batch: Any) -> Tensor:
        result: Tensor = honest(batch)
        if batch.indices[-1] + 1 == at_step:
            kept.append(toy.trainable["w"].detach().clone())
            return spoil(result)
        return result

    toy.loss = loss
    with pytest.raises(NonFiniteError) as raised:
        toy.fit(max_steps=8)
    assert str(raised.value).startswith(f"toy, step {at_step}: the loss is ")
    assert f"Rows of this step: rows.csv:{at_step - 1}." in str(raised.value)
    assert "nothing was updated" in str(raised.value)
    (weights,) = kept
    return weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at_step", [1, 3])
def test_a_loss_that_is_not_finite_updates_nothing(toy: Any, value: float, at_step: int) -> None:
    before = spoiled(toy, at_step, lambda loss: loss * value)
    assert torch.equal(toy.trainable["w"].detach(), before)
    assert len(toy.of("step")) == at_step - 1, "a step that was not taken is logged"


def test_a_gradient_that_is_not_finite_updates_nothing(toy: Any) -> None:
    def finite_loss_without_gradient(loss: Tensor) -> Tensor:
        return loss + (loss - loss.detach()).pow(2).sqrt()  # 0, and the root's gradient at 0 is infinite

    before = spoiled(toy, 3, finite_loss_without_gradient)
    assert torch.isfinite(before).all()
    assert torch.equal(toy.trainable["w"].detach(), before)


def test_one_bad_micro_batch_spoils_its_whole_step(toy: Any) -> None:
    toy.plan = lambda epoch: [[[0, 1], [2]]]
    honest = toy.loss
    toy.loss = lambda batch: honest(batch) * (math.nan if 2 in batch.indices else 1)
    with pytest.raises(NonFiniteError, match=r"Rows of this step: rows\.csv:0, rows\.csv:1, rows\.csv:2\."):
        toy.fit(max_steps=1)
    assert not toy.trainable["w"].any()


def test_a_few_rows_are_named_and_the_others_counted() -> None:
    check_finite("film", 1, 0.5, 1e30, [])
    with pytest.raises(NonFiniteError, match=r"Rows of this step: 0, 1, 2, 3, 4 and 3 more\. A lower"):
        check_finite("film", 1, 0.5, math.inf, list("01234567"))
