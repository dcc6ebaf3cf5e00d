"""What the adapters of a session, or the base itself, say of any number of examples, in as few passes as the session
allows. Results are on the CPU, in the order of the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pefttune.batching import Batch, Boundary, Outputs, evaluation_batches, hidden_rows
from pefttune.data import Example

if TYPE_CHECKING:
    from pefttune.inference.session import Session

Asked = Sequence[tuple[str, Example]]
Planned = tuple[str, list[int]]  # an adapter, and which of the examples go together


@torch.no_grad()
def scores(
    session: Session,
    name: str,
    examples: Sequence[Example],
    progress: Callable[[int], None],
    boundary: Boundary | Outputs | None,
) -> list[Tensor]:
    """What the task's `scores` are for each example, by the adapter `name`."""
    task, done = session.use(name).task, 0
    result: list[Tensor] = [torch.empty(0)] * len(examples)
    for indices in _plan(session, examples):
        batch = session.collator.batch(examples, indices, boundary, every_answer=True)
        (outputs,) = session.outputs([(name, batch)])
        for index, each in zip(indices, task.scores(outputs, batch), strict=True):
            result[index] = each.cpu()
        progress(done := done + len(indices))
    return result


@torch.no_grad()
def mixed_scores(session: Session, asked: Asked) -> list[Tensor]:
    """As `scores`, for examples that each name their adapter: those of several share passes through the base."""
    by_name: dict[str, list[int]] = {}
    for i, (name, _) in enumerate(asked):
        by_name.setdefault(name, []).append(i)
    if not by_name:
        return []
    if len(by_name) == 1:
        return session.scores(asked[0][0], [example for _, example in asked])
    planned: list[Planned] = []
    for name, own in by_name.items():
        planned += [(name, [own[i] for i in batch]) for batch in _plan(session, [asked[i][1] for i in own])]
    result: list[Tensor] = [torch.empty(0)] * len(asked)
    for together in _passes(session, asked, planned):
        outputs = session.outputs([(name, batch) for name, _, batch in together])
        for (name, indices, batch), output in zip(together, outputs, strict=True):
            for i, each in zip(indices, session.purpose(name).task.scores(output, batch), strict=True):
                result[i] = each.cpu()
    return result


@torch.no_grad()
def hidden_states(session: Session, examples: Sequence[Example]) -> list[Tensor]:
    """Last hidden states (marks, D) in float32 of each example's marks, by the base itself."""
    result: list[Tensor] = [torch.empty(0)] * len(examples)
    for indices, states in states_by_batch(session, examples):
        own = states.float().cpu().split([len(examples[i].marks) for i in indices])
        for i, each in zip(indices, own, strict=True):
            result[i] = each
    return result


@torch.no_grad()
def states_by_batch(session: Session, examples: Sequence[Example]) -> Iterator[tuple[list[int], Tensor]]:
    """Batch by batch, which of the examples are in it, and the last hidden states (N, D) of their marks as the base
    itself computes them."""
    for indices in _plan(session, examples):
        batch = session.collator.collate([examples[i] for i in indices], every_answer=True)
        with session.passing(None):
            states = hidden_rows(session.base.model, batch)
        yield indices, states


def _plan(session: Session, examples: Sequence[Example]) -> list[list[int]]:
    """Which of the examples go together."""
    ragged = session.collator.found_ragged(examples)
    return evaluation_batches(examples, session.max_batch_tokens, ragged=ragged)


def _passes(session: Session, asked: Asked, planned: Sequence[Planned]) -> Iterator[list[tuple[str, list[int], Batch]]]:
    """The planned batches, as many at once as `max_batch_tokens` hold."""
    together: list[tuple[str, list[int], Batch]] = []
    for name, indices in planned:
        batch = session.collator.collate([asked[i][1] for i in indices], every_answer=True)
        tokens = batch.n_tokens + sum(other.n_tokens for _, _, other in together)
        if together and tokens > session.max_batch_tokens:
            yield together
            together = []
        together.append((name, indices, batch))
    yield together
