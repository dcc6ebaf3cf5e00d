"""AdaLoRA's schedule: ranks are cut as PEFT cuts them, by steps that the loop counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from pefttune import methods, pipeline
from pefttune.errors import RecipeError, TrainingError
from pefttune.recipe.adapters import AdaLora

IDS = torch.arange(5, 40)[None]
STEPS = 12
SCHEDULE = {"tinit": 2, "tfinal": 3, "deltaT": 2}
SECTION = AdaLora(method="adalora", init_r=4, target_r=2, **SCHEDULE)


def steps(parameters: Any) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    optimizer = torch.optim.AdamW(list(parameters), lr=1e-2)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        yield step, optimizer


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_it_learns_and_cuts_as_in_pefts_own_loop(model_of: Any) -> None:
    ours, theirs = model_of("Llama"), model_of("Llama")
    adapter = methods.attach(ours, SECTION)
    methods.activate(ours, adapter)
    adapter.train(True)
    config = peft.AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=8,
        total_step=STEPS,
        target_modules="all-linear",
        **SCHEDULE,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(theirs, config)
    same = {key: model.get_parameter(f"{key}.default") for key in adapter.parameters}
    methods.weights.fill(same, methods.weights.copied(adapter.parameters))
    for step, optimizer in steps(adapter.parameters.values()):
        ours(IDS, labels=IDS, use_cache=False).loss.backward()
        adapter.penalty().backward()
        optimizer.step()
        adapter.after_step(step, STEPS)
    for step, optimizer in steps(same.values()):
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
    kept = 0
    for key, parameter in adapter.parameters.items():
        # The norms of the penalty are added up in another order.
        torch.testing.assert_close(parameter.detach(), same[key].detach(), rtol=1e-3, atol=1e-5)
        if key.endswith("lora_E"):
            assert torch.equal(parameter == 0, same[key] == 0)
            kept += int((parameter != 0).sum())
    assert kept == 2 * 14  # of the 4 · 14 at first


def test_a_run_cuts_and_stores_what_it_kept(recipe_of: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    section = {"method": "adalora", "init_r": 4, "target_r": 2}
    quick = {"training.max_steps": 12, "training.load_best_model_at_end": False, "evaluation.bootstrap_samples": 100}
    run = pipeline.run(recipe_of({**quick, "adapter": section}))
    tensors = load_file(Path(run.folder) / "adapter_model.safetensors")
    ranks = [int((tensor != 0).sum()) for key, tensor in tensors.items() if key.endswith("lora_E")]
    assert sum(ranks) == 2 * len(ranks) == 2 * 14
    assert len(set(ranks)) > 1, "all layers keep the same rank: nothing was chosen"


def test_too_few_steps_are_told(recipe_of: Any, tmp_path: Path) -> None:
    section = {"method": "adalora", "init_r": 4, "target_r": 2, "tfinal": 10}
    with pytest.raises(
        TrainingError, match=r"adapter\.tinit \(2\) and adapter\.tfinal \(10\) leave none .* 12 optimizer"
    ):
        pipeline.run(recipe_of({"training.max_steps": 12, "adapter": section}))
    assert not list((tmp_path / "adapters").rglob("adapter_model.safetensors"))


def test_what_leaves_nothing_to_cut_is_told(recipe_of: Any) -> None:
    with pytest.raises(RecipeError, match=r"target_r \(8\) must be below init_r \(8\)"):
        recipe_of({"adapter": {"method": "adalora", "init_r": 8}})
