"""What a probe found, as it is told: JSON by `dataclasses.asdict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from pefttune.evaluation.transfer.control import Control
from pefttune.evaluation.transfer.forecast import Forecast


@dataclass(frozen=True)
class ViewScores:
    """How well the labels are found in one view of the base. `linear` and `nearest` are the task's primary metric."""

    view: str
    logme: float
    h_score: float
    linear: float
    nearest: float


@dataclass(frozen=True)
class TextLoss:
    """Mean loss of the base, in nats a token, on texts as they are and with their tokens shuffled."""

    real: float
    shuffled: float
    texts: int


@dataclass(frozen=True)
class AnswerScores:
    """How likely a base, untrained, finds the answers: log-likelihoods in nats a token of each row's own answer and of
    another row's, how often its own is likelier, the chance of that if answers had nothing to do with prompts (exact
    sign test), and bits a byte of the own answers' text, which compare bases of any tokenizer."""

    own: float
    others: float
    matched: float
    p: float
    bits_per_byte: float


@dataclass(frozen=True)
class BaseFound:
    """One base: its views, best first, and what follows of the best; or its answers, where the task writes."""

    source: str
    approach: str
    views: tuple[ViewScores, ...] = ()
    forecast: Forecast | None = None
    control: Control | None = None
    text_loss: TextLoss | None = None
    answers: AnswerScores | None = None
    cpu_seconds: float = 0.0

    @property
    def transfers(self) -> bool:
        """Whether its states, or its likelihoods, know real labels or answers from shuffled ones."""
        return (self.control is None or self.control.transfers) and (self.answers is None or self.answers.p < 0.05)

    @property
    def promise(self) -> float:
        """By which bases are ranked; greater is better."""
        return self.forecast.metric if self.forecast else -self.answers.bits_per_byte if self.answers else 0.0


@dataclass(frozen=True)
class SourceFound:
    """An adapter, or a base asked zero-shot, as a source to start from: by its labels, with the `accuracy` where they
    are the task's own; or by LogME where it has none that fit."""

    name: str
    base: str
    labels: tuple[str, ...]
    leep: float | None = None
    nce: float | None = None
    accuracy: float | None = None
    logme: float | None = None


@dataclass(frozen=True)
class TransferReport:
    """A whole probe. Bases stand best first, and so do sources to start from.

    `passes_share` are the probe's passes through the base as a part of the training's. Minus the `label_entropy` is the
    LEEP and the NCE of a source that knows nothing.
    """

    name: str
    task: str
    metric: str
    rows: int
    training_rows: int
    passes_share: float
    bases: tuple[BaseFound, ...]
    sources: tuple[SourceFound, ...]
    label_entropy: float | None
    warnings: tuple[str, ...]
    seconds: float
    cpu_seconds: float

    @property
    def transfers(self) -> bool:
        """Whether any base does."""
        return any(base.transfers for base in self.bases)


def ranked_bases(bases: Sequence[BaseFound]) -> tuple[BaseFound, ...]:
    """Best first; those that do not transfer last."""
    return tuple(sorted(bases, key=lambda base: (not base.transfers, -base.promise)))


def ranked_sources(sources: Sequence[SourceFound]) -> tuple[SourceFound, ...]:
    """By LEEP, then those that have none by LogME; best first."""

    def key(source: SourceFound) -> tuple[bool, float]:
        score = source.logme if source.leep is None else source.leep
        return source.leep is None, -(score or 0.0)

    return tuple(sorted(sources, key=key))


def label_entropy(labels: Sequence[str]) -> float:
    """In nats."""
    return -sum(count / len(labels) * log(count / len(labels)) for count in Counter(labels).values())
