"""What the report tells of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pefttune.evaluation.compare import Comparison, interval
from pefttune.evaluation.scoring import Scored
from pefttune.tasks import Task
from pefttune.training import TrainingLog


@dataclass(frozen=True)
class Findings:
    """A run that is over: its task and log, who was scored with what, the adapter's manifest, its weights."""

    task: Task
    log: TrainingLog
    comparison: Comparison
    adapter: Scored
    others: Sequence[Scored]
    manifest: Mapping[str, Any]
    state: Mapping[str, Tensor]

    def row_scores(self, scored: Scored) -> np.ndarray:
        """The primary metric of each row alone: (rows,)."""
        return self.task.primary_of(scored.tallies)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The bounds of everybody's primary metric, by who they are, at the comparison's confidence level."""
        samples, seed = self.manifest["recipe"]["evaluation"]["bootstrap_samples"], self.manifest["recipe"]["seed"]
        level = self.comparison.confidence_level
        return {
            scored.name: interval(scored.tallies, self.task.primary_of, samples, level, seed)
            for scored in (*self.others, self.adapter)
        }
