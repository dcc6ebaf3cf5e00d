"""Two forms of one model on the same rows: an adapter on its base, and what it was exported to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from pefttune.batching import evaluation_batches, likeliest_tokens
from pefttune.data import Example, Row
from pefttune.inference import Session
from pefttune.tasks import Encoded
from pefttune.tasks.written import by_example


@dataclass(frozen=True)
class Answers:
    """What a model says of labelled rows: the primary metric and its value, what it chose, and by which scores."""

    metric: str
    value: float
    choices: tuple[Hashable, ...]
    """Of each row the answer; where answers are written, of each token of the references the likeliest in its place."""
    scores: np.ndarray
    counted: str
    """What the choices are of: rows or tokens."""


@dataclass(frozen=True)
class Parity:
    """How alike two models are on the same rows: the share of so many `choices` in which they agree (top-1 agreement),
    of `counted` rows or tokens, the primary metric of the first and of the second, the largest difference of a score, a
    log-likelihood (infinite where one has none), and how many different answers the first has given. Where it has given
    one to all, agreement says nothing."""

    rows: int
    choices: int
    counted: str
    agreement: float
    metric: str
    before: float
    after: float
    largest: float
    distinct: int


def answer(
    session: Session,
    name: str,
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    progress: Callable[[int], None] = lambda done: None,
) -> Answers:
    """What `name` of the session says of rows; `encoded` are their examples. `progress` is told how many rows, or where
    nothing is written examples, are done."""
    task = session.purpose(name).task
    examples = [example for each in encoded for example in each]
    if task.generation is None:
        scores = session.scores(name, examples, progress)
        each_row = iter(scores)
        predictions = [
            task.decode(row, each, list(islice(each_row, len(each)))) for row, each in zip(rows, encoded, strict=True)
        ]
        choices: list[Hashable] = [str(prediction) for prediction in predictions]
        counted = "rows"
    else:
        scores = session.scores(name, examples)
        predictions = session.predictions(name, rows, encoded, progress)
        choices = _likeliest(session, name, examples)
        counted = "tokens"
    primary, metric = next(iter(task.shown.items()))
    value = task.metrics(predictions, rows)[primary]
    return Answers(metric, value, tuple(choices), torch.cat(scores).numpy(), counted)


def parity(rows: int, one: Answers, other: Answers) -> Parity:
    """Two models' answers to the same rows, side by side."""
    agreed = sum(mine == theirs for mine, theirs in zip(one.choices, other.choices, strict=True))
    with np.errstate(invalid="ignore"):  # of two infinite scores that are alike
        apart = np.where(one.scores == other.scores, 0.0, np.abs(one.scores - other.scores))
    largest = float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max())
    share, distinct = agreed / len(one.choices), len(set(one.choices))
    return Parity(rows, len(one.choices), one.counted, share, one.metric, one.value, other.value, largest, distinct)


@torch.no_grad()
def _likeliest(session: Session, name: str, examples: Sequence[Example]) -> list[Hashable]:
    """In the order of the examples."""
    found: dict[int, list[Hashable]] = {}
    ragged = session.collator.found_ragged(examples)
    for indices in evaluation_batches(examples, session.max_batch_tokens, ragged=ragged):
        batch = session.collator.collate([examples[i] for i in indices], every_answer=True)
        with session.passing(name):
            tokens = likeliest_tokens(session.base.model, batch).cpu()
        found |= {i: each.tolist() for i, each in zip(indices, by_example(tokens, batch), strict=True)}
    return [token for i in range(len(examples)) for token in found[i]]
