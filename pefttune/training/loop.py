"""The only loop. It knows no method and no task by name: it moves the parameters it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from pefttune.training.guards import BaseGuard
from pefttune.training.learner import Learner, LossBatch, TrainingLog, Work

Losses = Callable[[Sequence[tuple[str, Any]]], Sequence[Tensor]]


def fit(
    works: Sequence[Work], losses: Losses, base_digest: Callable[[], str], max_batch_tokens: int
) -> list[TrainingLog]:
    """Train the `trainable` of each work in place, by its own settings; afterwards they hold the weights to keep.

    Batches of several works go through the base in one pass, as many as `max_batch_tokens` hold: `losses` gives, for
    some batches with the names of their works, the sum of each one's loss over its labelled positions. A single work is
    trained in just the same way. Raises TrainingError, NonFiniteError before an update that would spoil the weights,
    StorageError.
    """
    guard = BaseGuard(base_digest)
    learners = {work.name: Learner(work) for work in works}
    while active := {name: learner for name, learner in learners.items() if not learner.done}:
        started = time.perf_counter()
        batches = [(name, batch) for name, learner in active.items() for batch in learner.next_batches()]
        for together in _passes(batches, max_batch_tokens):
            parts = [active[name].share(loss) for (name, _), loss in zip(together, losses(together), strict=True)]
            active[together[0][0]].accelerator.backward(sum(parts))
        guard.after_pass()
        for learner in active.values():
            learner.update(started)
        for learner in active.values():
            learner.evaluate_if_due()
    guard.check()
    return [learner.finish() for learner in learners.values()]


def _passes(batches: Sequence[tuple[str, LossBatch]], max_tokens: int) -> Iterator[list[tuple[str, LossBatch]]]:
    """The batches in runs of at most `max_tokens`, each work once at most in a run."""
    together: list[tuple[str, LossBatch]] = []
    for name, batch in batches:
        tokens = batch.n_tokens + sum(other.n_tokens for _, other in together)
        if together and (tokens > max_tokens or name == together[-1][0]):
            yield together
            together = []
        together.append((name, batch))
    yield together
