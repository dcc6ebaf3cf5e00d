"""What a task is. A task object is made of its recipe section alone, then learns its labels, then gets a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pefttune.data import Example, Row

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.head import Head

Encoded = tuple[Example, ...]
"""The examples that are made of one row: one, or the windows of a long text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text as a prediction is drawn in it, and its tag where it is marked."""

    text: str
    tag: str | None = None


class Prediction(Protocol):
    """What the model says of one row. `str()` of it is the answer in a few words."""

    @property
    def confidence(self) -> float:
        """How likely the model finds its answer, between 0 and 1."""

    @property
    def truncated(self) -> bool:
        """Whether the text had to be cut."""

    def columns(self) -> dict[str, Any]:
        """What a row gains by it, JSON-able; the answer itself under `prediction`."""

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """The row's text, with what was found in it marked."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How an answer is written: its least and greatest length in tokens, the beams of the search (1 is greedy), and
    texts at which it stops, which are cut off."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Writing:
    """What a model wrote: the text, the mean log-likelihood of its tokens, and whether it came to its end within the
    greatest length."""

    text: str
    log_likelihood: float
    ended: bool


class ScoredBatch(Protocol):
    """What a task needs to know of a batch with N scored rows; all of it read only."""

    @property
    def targets_N(self) -> Tensor:
        """What each row should predict: a token, or a class for a head; -100 where unknown."""

    @property
    def answers_N(self) -> Tensor:
        """Which answer, counted through the batch, each row belongs to. For a head, an example is one answer."""

    @property
    def n_answers(self) -> int:
        """Candidate answers of all examples."""

    @property
    def n_examples(self) -> int:
        """Examples in the batch."""


class Task(Protocol):
    """One downstream task. Nothing of it needs torch until a batch is scored.

    The examples and predictions that it is given are those that it and its encoder made.
    """

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
    def kept_together(self) -> tuple[str, ...]:
        """Those of the inputs that many rows share, so that a split must not divide such rows; none where each row
        stands for itself."""

    @property
    def shown(self) -> Mapping[str, str]:
        """The metrics that are shown, all fractions, and how each is called; the first is the primary one, by which
        adapter and base are compared. Greater is better in the primary one."""

    @property
    def generation(self) -> Generation | None:
        """How answers are written, token by token; None for a task that only scores."""

    @property
    def watched(self) -> str:
        """The metric on the validation rows by which the best weights are chosen; greater is better."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be predicted, in the order of scores; empty where answers are free."""

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row's values, cleaned. Raises RowFault for a row that cannot be used."""

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> Task:
        """The task with its labels settled. Raises DataError when they cannot be learned."""

    def with_labels(self, labels: Sequence[str]) -> Task:
        """The task with the labels that an adapter was trained on."""

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """What turns rows into examples, for a decoder (`causal`) or an encoder.

        Raises BaseError or DataError when this base or its tokenizer cannot serve.
        """

    def new_head(self, model: Any, *, causal: bool) -> Head | None:
        """A fresh output layer for this base, or None where the language model's own serves."""

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Sum of the loss over the batch's labelled positions.

        `outputs` are the head's logits (N, C), or without a head the log-likelihoods (N,) of the target tokens.
        """

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """For each example what `decode` wants to know of it, in float32."""

    def decode(self, row: Row, encoded: tuple[Any, ...], scores: Sequence[Any]) -> Prediction:
        """The prediction that the scores of a row's examples stand for: tensors on the CPU, or, where there is
        a `generation`, one `Writing`."""

    def metrics(self, predictions: Sequence[Any], rows: Sequence[Row]) -> dict[str, Any]:
        """Every metric, JSON-able, those of `shown` among them."""

    def tallies(self, predictions: Sequence[Any], rows: Sequence[Row]) -> np.ndarray:
        """What each row adds to the counts that the primary metric is made of: (rows, K)."""

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """The primary metric of summed tallies (…, K): (…)."""

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Any]]:
        """What any model must beat: its name, and what it predicts of `rows`, knowing `train`."""

    def reference(self, row: Row) -> str:
        """The right answer in a few words."""

    def target_name(self, target: float) -> str:
        """What the target of a mark means."""

    def zero_shot(self) -> Task | None:
        """The form of this task in which a language model can be asked without any training; None if there is none."""


@runtime_checkable
class Writes(Protocol):
    """A task whose answer is written for a text, so that an encoder-decoder can do it, too."""

    def pair_encoder(self, tokenizer: Any, max_length: int) -> Encoder:
        """What turns rows into examples for an encoder-decoder. Raises DataError for a limit that leaves no room."""


@runtime_checkable
class Averages(Protocol):
    """A task whose `scores` can be averaged over several adapters that are asked alike."""

    def average(self, scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Scores of one example, in the same form, that stand for the weighted mean of what each of these says: of the
        probabilities, or of the numbers. `weights` sum to 1."""


class Encoder(Protocol):
    """Turns rows into examples, always the same way in training and at inference."""

    def __call__(self, row: Row) -> Encoded:
        """The examples of a row, cut to the length limit and saying so, or in windows."""

    def render(self) -> str:
        """The prompt with `{text}` in place of the text, for the adapter's card; empty where there is none."""
