"""What the training cost, and on what."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch

from pefttune.evaluation.report.findings import Findings

PARTS = {
    "libraries_mib": "libraries",
    "weights_mib": "frozen weights",
    "adapter_and_optimizer_mib": "adapter and optimizer",
    "activations_mib": "activations and temporary buffers",
}


@dataclass(frozen=True)
class Share:
    """A part of the peak memory."""

    name: str
    mib: float
    percent: float


@dataclass(frozen=True)
class Spending:
    """Rates are those of the optimizer steps, without evaluations."""

    examples_per_second: float
    tokens_per_second: float
    memory: tuple[Share, ...]
    weights_bytes: int
    machine: str


def spending(findings: Findings) -> Spending:
    """What the log, the manifest and the saved tensors tell."""
    steps, memory = findings.log.steps, findings.manifest["training"]["memory"]
    seconds = max(sum(step["seconds"] for step in steps), 1e-9)
    total = max(sum(memory[key] for key in PARTS), 1e-9)
    return Spending(
        examples_per_second=sum(step["examples"] for step in steps) / seconds,
        tokens_per_second=sum(step["tokens"] for step in steps) / seconds,
        memory=tuple(Share(name, memory[key], round(100 * memory[key] / total, 2)) for key, name in PARTS.items()),
        weights_bytes=sum(tensor.nbytes for tensor in findings.state.values()),
        machine=_machine(findings.manifest["training"]["device"]),
    )


def _machine(device: str) -> str:
    """What kind of machine this is, and nothing by which it is known."""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return f"{gpu}{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}"
