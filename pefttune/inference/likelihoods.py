"""How likely a base itself, without any adapter, finds given answers, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pefttune.batching import evaluation_batches, target_log_likelihoods
from pefttune.data import Example

if TYPE_CHECKING:
    from pefttune.inference.session import Session


@torch.no_grad()
def answer_log_likelihoods(
    session: Session, examples: Sequence[Example], progress: Callable[[int], None] = lambda done: None
) -> list[tuple[Tensor, ...]]:
    """For each example, which has no marks, the log-likelihoods of the tokens of each of its answers, in float32 on the
    CPU. `progress` is told how many examples are done."""
    result: list[tuple[Tensor, ...]] = [()] * len(examples)
    ragged, done = session.collator.found_ragged(examples), 0
    for indices in evaluation_batches(examples, session.max_batch_tokens, ragged=ragged):
        batch = session.collator.collate([examples[i] for i in indices], every_answer=True)
        with session.passing(None):
            found = target_log_likelihoods(session.base.model, batch).float().cpu()
        answers = iter(found.split(batch.answers_N.bincount(minlength=batch.n_answers).tolist()))
        for i in indices:
            result[i] = tuple(next(answers) for _ in examples[i].answers)
        progress(done := done + len(indices))
    return result
