"""Score an adapter of a session on labelled rows, and watch one that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pefttune.batching import Boundary, Outputs
from pefttune.data import Row
from pefttune.inference import Session
from pefttune.tasks import Encoded, Prediction, Task


@dataclass(frozen=True)
class Scored:
    """Predictions of rows, in order, with their metrics; `tallies` (rows, K) are what the primary one is made of."""

    name: str
    rows: tuple[Row, ...]
    predictions: tuple[Prediction, ...]
    metrics: dict[str, Any]
    tallies: np.ndarray


def judge(name: str, task: Task, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Scored:
    """Measure the predictions of somebody called `name`."""
    return Scored(
        name, tuple(rows), tuple(predictions), task.metrics(predictions, rows), task.tallies(predictions, rows)
    )


def score(
    session: Session,
    adapter: str,
    rows: Sequence[Row],
    encoded: Sequence[Encoded] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    boundary: Boundary | Outputs | None = None,
    name: str | None = None,
) -> Scored:
    """Predict `rows` by an adapter of the session and measure it; `encoded` are the rows' examples, if they are made
    already, `boundary` what the layers below the lowest adapted one make of them, if that is known. The result is
    called `name`, or as the adapter is."""
    purpose = session.purpose(adapter)
    if encoded is None:
        encoded = [purpose.encoder(row) for row in rows]
    predictions = session.predictions(adapter, rows, encoded, progress, boundary)
    return judge(name or adapter, purpose.task, rows, predictions)


def watch(
    session: Session,
    adapter: str,
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    boundary: Boundary | Outputs | None = None,
) -> dict[str, Any]:
    """What an adapter in training is judged by, the task's `watched` metric among it.

    To write an answer to each row at every evaluation would take longer than the training: where answers are written,
    it is the mean log-likelihood of the references' tokens. Arguments as for `score`.
    """
    if session[adapter].task.generation is None:
        return score(session, adapter, rows, encoded, boundary=boundary).metrics
    examples = [example for each in encoded for example in each]
    tokens = np.concatenate([each.numpy() for each in session.scores(adapter, examples, boundary=boundary)])
    mean = float(tokens.mean(dtype=float))
    return {"log_likelihood": mean, "perplexity": float(np.exp(-mean))}
