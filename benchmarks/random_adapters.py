"""Many adapters with random weights, in folders that PEFT reads: what they say does not matter, what they cost does."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.job import Job
from pefttune import bases, methods
from pefttune.recipe import schema
from pefttune.recipe.adapters import Lora

STD = 0.02


def write_adapters(job: Job, folder: Path, count: int) -> list[str]:
    """Folders of so many LoRA adapters for the job's base."""
    base = bases.load(schema.Base(source=job.base.folder, quantization="nf4", dtype="float32"))
    torch.manual_seed(job.seed)
    folders = []
    for number in range(count):
        adapter = methods.attach(base.model, Lora(method="lora", r=job.lora.r, lora_alpha=job.lora.alpha))
        for parameter in adapter.parameters.values():
            parameter.data.normal_(std=STD)
        own = folder / str(number)
        own.mkdir()
        methods.weights.write(
            own, adapter.config() | {"task_type": "CAUSAL_LM"}, methods.weights.copied(adapter.parameters), "base", None
        )
        adapter.detach()
        folders.append(str(own))
    return folders
