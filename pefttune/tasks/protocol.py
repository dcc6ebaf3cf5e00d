"""What a task is. A task object is made of its recipe section alone, then learns its labels, then gets a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pefttune.data import Example, Row

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """What the model says of one row: the label, how sure it is of each, and whether the text had to be cut."""

    label: str
    probabilities: dict[str, float]
    truncated: bool

    @property
    def confidence(self) -> float:
        """Probability of the predicted label."""
        return self.probabilities[self.label]


class ScoredBatch(Protocol):
    """What a task needs to know of a batch with N scored rows; all of it read only."""

    @property
    def targets_N(self) -> Tensor:
        """What each row should predict: a token, or a class for a head; -100 where unknown."""

    @property
    def answers_N(self) -> Tensor:
        """Which answer, counted through the batch, each row belongs to."""

    @property
    def n_answers(self) -> int:
        """Candidate answers of all examples."""

    @property
    def n_examples(self) -> int:
        """Rows of data."""


class Task(Protocol):
    """One downstream task. Nothing of it needs torch until a batch is scored."""

    @property
    def name(self) -> str:
        """The Hub's pipeline tag."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns a training row must have."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of them the model reads, all that prediction needs."""

    @property
    def primary(self) -> str:
        """The metric by which the best weights are chosen; greater is better."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be predicted, in the order of scores."""

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row's values, cleaned. Raises RowFault for a row that cannot be used."""

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> Task:
        """The task with its labels settled. Raises DataError when they cannot be learned."""

    def with_labels(self, labels: Sequence[str]) -> Task:
        """The task with the labels that an adapter was trained on."""

    def encoder(self, tokenizer: Any, max_length: int) -> Encoder:
        """What turns rows into examples. Raises BaseError or DataError when this tokenizer cannot serve."""

    def new_head(self, model: Any) -> nn.Linear | None:
        """A fresh output layer for this base, or None where the language model's own serves."""

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Sum of the loss over the batch's labelled positions.

        `outputs` are the head's logits (N, C), or without a head the log-likelihoods (N,) of the target tokens.
        """

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Log-scores (B, C) of the classes for each example."""

    def decode(self, scores: Sequence[float], truncated: bool) -> Prediction:
        """The prediction that an example's scores stand for."""

    def metrics(self, predictions: Sequence[Prediction], references: Sequence[str]) -> dict[str, Any]:
        """Every metric, the primary one among them."""

    def zero_shot(self) -> Task:
        """The form of this task in which the base can be asked without any training."""


class Encoder(Protocol):
    """Turns rows into examples, always the same way in training and at inference."""

    def __call__(self, row: Row) -> Example:
        """The example of a row, cut to the length limit and saying so."""

    def render(self) -> str:
        """The prompt with `{text}` in place of the text, for the adapter's card."""
