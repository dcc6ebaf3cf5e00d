"""The same line on a GPU."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.gpu
@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_a_4_bit_base_trains_evaluates_and_verifies_on_cuda(recipe_of: Any, approach: str) -> None:
    from pefttune import pipeline

    events: list[dict[str, Any]] = []
    changes = {
        "task.approach": approach,
        "base.quantization": "nf4",
        "base.dtype": "auto",
        "base.device": "cuda",
        "training.num_train_epochs": 2,
    }
    run = pipeline.run(recipe_of(changes), events.append)  # raises unless what was saved scores as what was trained
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < losses[0]
    assert run.manifest["base"]["dtype"] in ("bfloat16", "float16")
    memory = run.manifest["training"]["memory"]
    assert memory["device"] == "cuda"
    assert memory["peak_mib"] >= memory["weights_mib"] > 0
