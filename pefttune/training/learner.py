"""One adapter in training: its parameters, optimizer and schedule, its evaluations and best weights, its log."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from pefttune.errors import TrainingError
from pefttune.training.best import Best
from pefttune.training.flat import FlatParameters
from pefttune.training.guards import MovementGuard, check_finite
from pefttune.training.runlog import Notify

EVALUATIONS_BY_DEFAULT = 4


class LossBatch(Protocol):
    """What training needs to know of a batch; the counts are read only."""

    @property
    def n_scored(self) -> int:
        """Labelled positions."""

    @property
    def n_examples(self) -> int:
        """Rows."""

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads."""


@dataclass(frozen=True)
class Work:
    """Everything that is particular to a run: what to train, on what, by which settings, and how to judge it."""

    name: str
    trainable: Mapping[str, nn.Parameter]
    plan: Callable[[int], Sequence[Sequence[Sequence[int]]]]
    """An epoch's optimizer steps, each a list of batches of row indices."""
    collate: Callable[[Sequence[int]], Any]
    """The `LossBatch` of some rows."""
    train_mode: Callable[[bool], None]
    evaluate: Callable[[], dict[str, Any]]
    """Metrics on the validation rows."""
    watched: str
    """The metric by which the best weights are chosen; greater is better."""
    origins: Callable[[Sequence[int]], list[str]]
    """Where rows stand, to name them."""
    config: Any
    """The recipe's `training` section."""
    run_folder: Path
    notify: Notify
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors on the learning rate, of those of `trainable` that have one."""
    penalty: Callable[[], torch.Tensor | None] = lambda: None
    """What is added to the loss of each optimizer step, if anything."""
    after_step: Callable[[int, int], None] = lambda step, of: None
    """Called after each optimizer step, counted from 1, of so many, before the gradients are cleared."""


@dataclass
class TrainingLog:
    """What happened: a record per step and per evaluation, and what it cost."""

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    optimizer_bytes: int = 0
    best_step: int = 0
    stopped_early: bool = False


class Learner:
    """Steps through one run. `done` once its steps are over or it has stopped early."""

    def __init__(self, work: Work) -> None:
        self._started = time.perf_counter()
        self._work, config = work, work.config
        self._flat = FlatParameters(work.trainable, work.rates)
        self.accelerator = _accelerator(config, work.run_folder)
        groups = [{"params": [group], "lr": rate * config.learning_rate} for group, rate in self._flat.groups]
        self._optimizer = self.accelerator.prepare(
            torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        )
        self._total = config.max_steps or max(1, math.ceil(len(work.plan(0)) * config.num_train_epochs))
        self._every = config.eval_steps or max(1, math.ceil(self._total / EVALUATIONS_BY_DEFAULT))
        self._schedule = _schedule(config, self._optimizer.optimizer, self._total)
        self._steps = itertools.islice(_endless(work), self._total)
        self._best = Best(work.run_folder, work.watched)
        self._guard = MovementGuard(work.name, work.trainable)
        self.log = TrainingLog()
        self.done = False
        work.train_mode(True)

    def next_batches(self) -> list[LossBatch]:
        """The batches of the next optimizer step. Raises TrainingError when nothing in them is labelled."""
        self._rows = next(self._steps)
        self._batches: list[LossBatch] = [self._work.collate(indices) for indices in self._rows]
        if not any(batch.n_scored for batch in self._batches):
            rows = ", ".join(self._work.origins([i for indices in self._rows for i in indices])[:5])
            raise TrainingError(f"a step of {self._work.name} has no labelled token to learn from; its rows: {rows}")
        self._loss = 0.0
        return self._batches

    def share(self, loss: torch.Tensor) -> torch.Tensor:
        """A batch's part of the step's loss: its sum over the count of labelled positions in the whole step, so that
        1×8 and 4×2 give the same gradient on ragged data."""
        part: torch.Tensor = loss / sum(batch.n_scored for batch in self._batches)
        self._loss += part.item()
        return part

    def update(self, started: float) -> None:
        """One optimizer step with the gradients that have come together since `started` (of time.perf_counter).

        Raises NonFiniteError before an update that would spoil the weights.
        """
        step = len(self.log.steps) + 1
        whole, work = self._flat.whole, self._work
        if (penalty := work.penalty()) is not None:
            self.accelerator.backward(penalty)
        norm = float(nn.utils.clip_grad_norm_([whole], work.config.max_grad_norm or math.inf))
        check_finite(work.name, step, self._loss, norm, work.origins([i for indices in self._rows for i in indices]))
        self._optimizer.step()
        work.after_step(step, self._total)
        self._optimizer.zero_grad(set_to_none=False)
        record = {
            "step": step,
            "loss": self._loss,
            "gradient_norm": norm,
            "examples": sum(batch.n_examples for batch in self._batches),
            "tokens": sum(batch.n_tokens for batch in self._batches),
            "seconds": time.perf_counter() - started,
            "learning_rate": float(self._schedule.get_last_lr()[0]),
        }
        self._schedule.step()
        self._guard.after_step(step)
        self.log.steps.append(record)
        work.notify({"event": "step", "of": self._total, **record})
        told = {key: record[key] for key in ("loss", "learning_rate", "gradient_norm")}
        self.accelerator.log(told, step=step)

    def evaluate_if_due(self) -> None:
        """Evaluate every so many steps and after the last; keep the weights if they are the best so far."""
        step, work = len(self.log.steps), self._work
        if step % self._every and step != self._total:
            return
        work.train_mode(False)
        metrics = {"step": step, "watched": work.watched, **work.evaluate()}
        work.train_mode(True)
        work.notify({"event": "evaluation", **metrics})
        told = {f"eval_{key}": value for key, value in metrics.items() if isinstance(value, float)}
        self.accelerator.log(told, step=step)
        self._best.consider(step, metrics, work.trainable)
        self.log.evaluations.append(metrics)
        patience = work.config.early_stopping_patience
        self.log.stopped_early = bool(patience and self._best.evaluations_since >= patience)
        self.done = step == self._total or self.log.stopped_early
        self.log.seconds = time.perf_counter() - self._started

    def finish(self) -> TrainingLog:
        """Leave the weights to keep in place."""
        self._work.train_mode(False)
        keep_best = self._work.config.load_best_model_at_end
        self.log.best_step = self._best.restore(self._work.trainable) if keep_best else len(self.log.steps)
        state = chain.from_iterable(of_group.values() for of_group in self._optimizer.state.values())
        self.log.optimizer_bytes = sum(value.nbytes for value in state if torch.is_tensor(value))
        self._flat.forget_gradients()
        self.accelerator.end_training()
        return self.log


def _accelerator(config: Any, run_folder: Path) -> Accelerator:
    # Accelerate leaves out a tracker that is not installed, without a word.
    if missing := sorted(set(config.report_to) - set(map(str, get_available_trackers()))):
        raise TrainingError(
            f"training.report_to: {', '.join(missing)} cannot be imported; pip install 'pefttune[{','.join(missing)}]'"
        )
    accelerator = Accelerator(
        # Both are the recipe's to say; else a launcher's environment would autocast, and divide the loss once more.
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(config.report_to) or None,
        project_dir=str(run_folder),
        cpu=not torch.cuda.is_available(),
    )
    accelerator.init_trackers("pefttune")
    if accelerator.num_processes > 1:
        raise TrainingError("training runs in one process; start it without a launcher, or with --num_processes 1")
    return accelerator


def _schedule(config: Any, optimizer: torch.optim.Optimizer, total: int) -> LambdaLR:
    """transformers' schedule moved on by one step, because its first rate is 0 and such a step is work for nothing."""
    warmup = math.ceil(total * config.warmup_ratio)
    theirs = get_scheduler(config.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=total + 1)
    rate = theirs.lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: rate(step + 1))


def _endless(work: Work) -> Iterator[Sequence[Sequence[int]]]:
    for epoch in itertools.count():
        yield from work.plan(epoch)
