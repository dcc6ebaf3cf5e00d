"""The only loop. It knows no method and no task by name: it moves the parameters it is given."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from pefttune.errors import TrainingError
from pefttune.training.best import Best
from pefttune.training.guards import MovementGuard, check_finite
from pefttune.training.runlog import Notify

EVALUATIONS_BY_DEFAULT = 4


class LossBatch(Protocol):
    """What the loop needs to know of a batch; the counts are read only."""

    @property
    def n_scored(self) -> int:
        """Labelled positions."""

    @property
    def n_examples(self) -> int:
        """Rows."""

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""


@dataclass(frozen=True)
class Work:
    """Everything that is particular to a run: what to train, on what, and how to judge it."""

    trainable: Mapping[str, nn.Parameter]
    plan: Callable[[int], Sequence[Sequence[Sequence[int]]]]
    """An epoch's optimizer steps, each a list of micro-batches of row indices."""
    collate: Callable[[Sequence[int]], Any]
    """The `LossBatch` of a micro-batch."""
    loss: Callable[[Any], Tensor]
    """The *sum* of the loss over a batch's labelled positions."""
    train_mode: Callable[[bool], None]
    evaluate: Callable[[], dict[str, Any]]
    """Metrics on the validation rows."""
    primary: str
    """The metric by which the best weights are chosen."""
    origins: Callable[[Sequence[int]], list[str]]
    """Where rows stand, to name them."""
    base_digest: Callable[[], str]
    """Hash of the frozen base."""


@dataclass
class TrainingLog:
    """What happened: a record per step and per evaluation, and what it cost."""

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    optimizer_bytes: int = 0
    best_step: int = 0
    stopped_early: bool = False


def fit(work: Work, config: Any, run_folder: Path, notify: Notify) -> TrainingLog:
    """Train `work.trainable` in place by the recipe's `training` section; afterwards it holds the weights to keep.

    Raises TrainingError, NonFiniteError before an update that would spoil the weights, StorageError.
    """
    started = time.perf_counter()
    accelerator = _accelerator(config, run_folder)
    optimizer = accelerator.prepare(
        torch.optim.AdamW(work.trainable.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    )
    total = config.max_steps or max(1, math.ceil(len(work.plan(0)) * config.num_train_epochs))
    every = config.eval_steps or max(1, math.ceil(total / EVALUATIONS_BY_DEFAULT))
    schedule = _schedule(config, optimizer.optimizer, total)
    log, best = TrainingLog(), Best(run_folder, work.primary)
    guard = MovementGuard(work.trainable, work.base_digest)
    work.train_mode(True)
    for step, micro_batches in enumerate(itertools.islice(_steps(work), total), start=1):
        record = _optimizer_step(step, micro_batches, work, optimizer, accelerator, config.max_grad_norm)
        record["learning_rate"] = float(schedule.get_last_lr()[0])
        schedule.step()
        guard.after_step(step)
        log.steps.append(record)
        notify({"event": "step", "of": total, **record})
        accelerator.log({key: record[key] for key in ("loss", "learning_rate", "gradient_norm")}, step=step)
        if step % every == 0 or step == total:
            log.evaluations.append(_evaluate(step, work, best, accelerator, notify))
            if config.early_stopping_patience and best.evaluations_since >= config.early_stopping_patience:
                log.stopped_early = True
                break
    work.train_mode(False)
    guard.check_base()
    log.best_step = best.restore(work.trainable) if config.load_best_model_at_end else step
    log.optimizer_bytes = _optimizer_bytes(optimizer)
    log.seconds = time.perf_counter() - started
    accelerator.end_training()
    return log


def _optimizer_step(
    step: int,
    micro_batches: Sequence[Sequence[int]],
    work: Work,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    max_grad_norm: float,
) -> dict[str, float]:
    """One update. Its loss is the sum over labelled positions of all micro-batches divided by their global count, so
    that 1×8 and 4×2 give the same gradient on ragged data."""
    started = time.perf_counter()
    batches: list[LossBatch] = [work.collate(indices) for indices in micro_batches]
    scored = sum(batch.n_scored for batch in batches)
    loss = 0.0
    for batch in batches:
        part = work.loss(batch) / scored
        accelerator.backward(part)
        loss += part.item()
    norm = float(nn.utils.clip_grad_norm_(work.trainable.values(), max_grad_norm or math.inf))
    check_finite(step, loss, norm, work.origins([i for indices in micro_batches for i in indices]))
    optimizer.step()
    optimizer.zero_grad()
    return {
        "step": step,
        "loss": loss,
        "gradient_norm": norm,
        "examples": sum(batch.n_examples for batch in batches),
        "tokens": sum(batch.n_tokens for batch in batches),
        "seconds": time.perf_counter() - started,
    }


def _evaluate(step: int, work: Work, best: Best, accelerator: Accelerator, notify: Notify) -> dict[str, Any]:
    work.train_mode(False)
    metrics = {"step": step, **work.evaluate()}
    work.train_mode(True)
    notify({"event": "evaluation", **metrics})
    accelerator.log({f"eval_{key}": value for key, value in metrics.items() if isinstance(value, float)}, step=step)
    best.consider(step, metrics, work.trainable)
    return metrics


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


def _steps(work: Work) -> Iterator[Sequence[Sequence[int]]]:
    for epoch in itertools.count():
        yield from work.plan(epoch)


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
