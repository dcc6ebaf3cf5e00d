"""Score an adapter of a session on labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pefttune.batching import Boundary
from pefttune.data import Example, Row
from pefttune.inference import Session
from pefttune.tasks import Prediction


@dataclass(frozen=True)
class Scored:
    """Predictions on rows, in order, and their metrics."""

    rows: tuple[Row, ...]
    predictions: tuple[Prediction, ...]
    metrics: dict[str, Any]

    @property
    def correct(self) -> list[bool]:
        """Whether each row was predicted right."""
        return [p.label == row.values["label"] for p, row in zip(self.predictions, self.rows, strict=True)]


def score(
    session: Session,
    name: str,
    rows: Sequence[Row],
    examples: Sequence[Example] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    boundary: Boundary | None = None,
) -> Scored:
    """Predict `rows` by the adapter `name` and measure it; `examples` are the rows encoded, if that is done already,
    `boundary` what enters the lowest adapted layer for them, if that is known."""
    loaded = session[name]
    if examples is None:
        examples = [loaded.encoder(row) for row in rows]
    scores = session.scores(name, examples, progress, boundary).tolist()
    predictions = tuple(
        loaded.task.decode(values, example.truncated) for values, example in zip(scores, examples, strict=True)
    )
    metrics = loaded.task.metrics(predictions, [row.values["label"] for row in rows])
    return Scored(tuple(rows), predictions, metrics)
