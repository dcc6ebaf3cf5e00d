"""What tasks whose answer is written have in common: the prediction, and the likelihood of a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pefttune.data import Row
from pefttune.tasks.protocol import Encoded, Piece, ScoredBatch, Writing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Written:
    """A text that was written, and what it was written for."""

    text: str
    read: tuple[str, ...]
    """The texts that the model read."""
    confidence: float
    """Geometric mean of the probabilities of its tokens."""
    truncated: bool
    ended: bool = True
    """Whether it came to its end within the longest answer."""

    def __str__(self) -> str:
        return self.text

    def columns(self) -> dict[str, Any]:
        """The text and how likely it is."""
        return {"prediction": self.text, "confidence": self.confidence, "truncated": self.truncated}

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """What the model read, nothing in it marked."""
        return (Piece("\n".join(self.read)),)


def written(writing: Writing, read: Sequence[str], encoded: Encoded) -> Written:
    """The prediction for a row whose texts are `read`."""
    truncated = any(example.truncated for example in encoded)
    return Written(writing.text, tuple(read), math.exp(writing.log_likelihood), truncated, writing.ended)


def by_example(values_N: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
    """The values of each example's reference, token by token; each example has one answer."""
    counts: list[int] = batch.answers_N.bincount(minlength=batch.n_examples).tolist()
    parts: Sequence[Tensor] = values_N.split(counts)
    return parts


def unfinished(predictions: Sequence[Written]) -> float:
    """The share of texts that did not come to their end within the longest answer."""
    return sum(not prediction.ended for prediction in predictions) / len(predictions)
