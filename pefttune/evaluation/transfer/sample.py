"""The rows that a probe looks at: their examples, the units in them that are classified, and how these are judged.

A unit is a text, or a word of one. Shapes: U units, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pefttune.data import UNKNOWN, Example, Row
from pefttune.tasks import Encoded, Task


@dataclass(frozen=True)
class Sample:
    """Rows in a random order, what a base's encoder makes of them, and the task that judges predictions."""

    task: Task
    rows: tuple[Row, ...]
    encoded: tuple[Encoded, ...]

    @property
    def examples(self) -> list[Example]:
        """Those of all rows."""
        return [example for each in self.encoded for example in each]

    @cached_property
    def targets_U(self) -> np.ndarray:
        """The right class of each unit, `UNKNOWN` where there is none."""
        return np.array([target for example in self.examples for target in _targets(example)], int)

    @cached_property
    def rows_U(self) -> np.ndarray:
        """The row that each unit belongs to."""
        units = [sum(len(_targets(example)) for example in each) for each in self.encoded]
        return np.repeat(np.arange(len(units)), units)

    @cached_property
    def classes(self) -> int:
        """How many there are, those that the sample lacks included."""
        from pefttune.tasks.tags import classes_of

        return len(classes_of(self.task.labels) if "tags" in self.task.columns else self.task.labels)

    def tallies(self, chances_UC: np.ndarray) -> np.ndarray:
        """What each row adds to the task's primary metric, (rows, K), if units are predicted with these
        log-probabilities."""
        scores, predictions, start = torch.from_numpy(chances_UC), [], 0
        for row, encoded in zip(self.rows, self.encoded, strict=True):
            own = []
            for example in encoded:
                end = start + len(_targets(example))
                own.append(scores[start:end] if "tags" in self.task.columns else scores[start])
                start = end
            predictions.append(self.task.decode(row, encoded, own))
        return self.task.tallies(predictions, self.rows)

    def metric(self, chances_UC: np.ndarray) -> float:
        """The task's primary metric of such predictions."""
        return float(self.task.primary_of(self.tallies(chances_UC).sum(0)))


def _targets(example: Example) -> Sequence[float]:
    if example.answers:
        return (UNKNOWN if example.target is None else example.target,)
    return [target for _, target in example.marks]
