"""LoRA+: B learns faster than A, as by PEFT's optimizer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from pefttune import methods
from pefttune.recipe import schema
from pefttune.recipe.adapters import Lora
from pefttune.training import Work, fit

IDS = torch.arange(5, 40)[None]
STEPS, RATE = 3, 1e-3


def attached(model: Any) -> methods.Adapter:
    torch.manual_seed(5)
    adapter = methods.attach(model, Lora(method="lora", r=4, loraplus_lr_ratio=16))
    methods.activate(model, adapter)
    return adapter


def loss(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(IDS, labels=IDS, use_cache=False).loss
    return found


@pytest.mark.usefixtures("_fresh_accelerate")
def test_the_loop_steps_as_with_pefts_optimizer(model_of: Any, tmp_path: Path) -> None:
    ours, theirs = model_of("Llama"), model_of("Llama")
    mine, same = attached(ours), attached(theirs)
    begin = methods.weights.copied(mine.parameters)
    rates = {"learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.0}
    work = Work(
        name="plus",
        trainable=mine.parameters,
        plan=lambda epoch: [[[0]]] * STEPS,
        collate=lambda rows: SimpleNamespace(n_scored=1, n_examples=1, n_tokens=IDS.numel()),
        train_mode=mine.train,
        evaluate=lambda: {"accuracy": 0.0},
        watched="accuracy",
        origins=lambda rows: ["row 1"],
        config=schema.Training(max_steps=STEPS, load_best_model_at_end=False, **rates),
        run_folder=tmp_path,
        notify=lambda event: None,
        rates=mine.rates,
    )
    (log,) = fit([work], lambda batches: [loss(ours)], lambda: "same", 1000)
    assert {record["learning_rate"] for record in log.steps} == {RATE}
    same.train(True)
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=16)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(theirs).backward()
        optimizer.step()
    for key, parameter in mine.parameters.items():
        # The same operations on each number, vectorised over other lengths: float32's last bits, of a rate.
        torch.testing.assert_close(parameter, same.parameters[key], rtol=1e-5, atol=RATE * 1e-3)
    moved = {
        half: max(float((p - begin[k]).abs().max()) for k, p in mine.parameters.items() if half in k)
        for half in ("lora_A", "lora_B")
    }
    assert moved["lora_B"] > 10 * moved["lora_A"]


def test_without_a_ratio_no_parameter_has_a_rate_of_its_own(model_of: Any) -> None:
    assert set(methods.attach(model_of("Llama"), Lora(method="lora")).rates.values()) == {1.0}
