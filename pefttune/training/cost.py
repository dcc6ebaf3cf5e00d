"""What a training cost, for manifest, card and log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pefttune.training.learner import TrainingLog
from pefttune.training.memory import MemorySplit


def cost(log: TrainingLog, memory: MemorySplit) -> dict[str, Any]:
    """Steps, seconds and memory, JSON-able."""
    return {
        "steps": len(log.steps),
        "best_step": log.best_step,
        "stopped_early": log.stopped_early,
        "seconds": log.seconds,
        "device": memory.device,
        "memory": {**asdict(memory), "activations_mib": memory.activations_mib},
    }
