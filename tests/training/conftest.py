"""A toy to train: four weights that learn the mean of their rows, so that every number can be worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pefttune.recipe import schema
from pefttune.training import TrainingLog, Work, fit


@dataclass
class Toy:
    """Replace any part of it before `fit`."""

    folder: Path
    trainable: dict[str, nn.Parameter] = field(default_factory=lambda: {"w": nn.Parameter(torch.zeros(4))})
    rows: int = 8
    accuracies: list[float] = field(default_factory=lambda: [0.5] * 100)
    digests: list[str] = field(default_factory=lambda: ["same"] * 100)
    events: list[dict[str, Any]] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    evaluated: list[dict[str, Tensor]] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    """What a method asks of the loop besides."""

    def loss(self, batch: Any) -> Tensor:
        """Sum of squared distances to each row's number."""
        total = torch.zeros(())
        for index in batch.indices:
            for parameter in self.trainable.values():
                total = total + (parameter - float(index + 1)).pow(2).sum()
        return total

    def plan(self, epoch: int) -> Sequence[Sequence[Sequence[int]]]:
        self.epochs.append(epoch)
        return [[[row]] for row in range(self.rows)]

    def collate(self, indices: Sequence[int]) -> Any:
        return SimpleNamespace(indices=indices, n_scored=len(indices), n_examples=len(indices), n_tokens=7)

    def evaluate(self) -> dict[str, Any]:
        self.evaluated.append({key: parameter.detach().clone() for key, parameter in self.trainable.items()})
        return {"accuracy": self.accuracies[len(self.evaluated) - 1], "confusion": [[1]]}

    def fit(self, **training: Any) -> TrainingLog:
        config = schema.Training(**{"learning_rate": 0.1, "lr_scheduler_type": "constant", **training})
        digests = iter(self.digests)
        work = Work(
            name="toy",
            trainable=self.trainable,
            plan=self.plan,
            collate=self.collate,
            train_mode=self.modes.append,
            evaluate=self.evaluate,
            watched="accuracy",
            origins=lambda indices: [f"rows.csv:{index}" for index in indices],
            config=config,
            run_folder=self.folder,
            notify=self.events.append,
            **self.asked,
        )
        (log,) = fit([work], lambda batches: [self.loss(batch) for _, batch in batches], lambda: next(digests), 1000)
        return log

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind."""
        return [event for event in self.events if event["event"] == kind]


@pytest.fixture
def toy(tmp_path: Path, _fresh_accelerate: None) -> Toy:
    (tmp_path / "run").mkdir()
    return Toy(tmp_path / "run")
