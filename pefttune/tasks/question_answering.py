"""Extractive question answering: the span of a passage that answers a question, or that none does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pefttune.data import UNKNOWN, Row
from pefttune.data.faults import RowFault, RowMended
from pefttune.data.hints import shortened
from pefttune.data.text import is_blank
from pefttune.errors import DataError
from pefttune.recipe import tasks as sections
from pefttune.tasks.averaging import mean_of_logs
from pefttune.tasks.checks import refuse_unlearned
from pefttune.tasks.protocol import Encoded, Encoder, Piece, ScoredBatch

if TYPE_CHECKING:  # torch is imported when a batch is scored, so that bad data fails first
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.head import Head
    from pefttune.tasks.passage import Window

ANSWER, NO_ANSWER = "answer", "no answer"
MOST_SHIFTED = 3  # characters that an answer may stand beside its place, as where whitespace was stripped


@dataclass(frozen=True)
class Answer:
    """A span of the passage: `context[start:end]` is its text, which is empty where there is no answer."""

    text: str
    start: int
    end: int
    confidence: float
    """Probability of this span among all spans, and no answer where that can be."""
    truncated: bool = False
    """Whether the question had to be cut."""

    def __str__(self) -> str:
        return self.text or NO_ANSWER

    def columns(self) -> dict[str, Any]:
        """The answer, its probability, and the characters of the passage at which it begins and before which it
        ends."""
        return {
            "prediction": self.text,
            "confidence": self.confidence,
            "start": self.start,
            "end": self.end,
            "truncated": self.truncated,
        }

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """The question, and the passage with the answer marked in it."""
        context = row.values["context"]
        question = Piece(f"{row.values['question']} ")
        if not self.text:
            return question, Piece(context)
        return question, Piece(context[: self.start]), Piece(self.text, "answer"), Piece(context[self.end :])


@dataclass(frozen=True)
class QuestionAnswering:
    """See `pefttune.tasks.protocol.Task`."""

    stride: int
    max_answer_length: int
    labels: tuple[str, ...] = ()
    """`("answer", "no answer")` where there were questions without an answer to learn from; else every question is
    taken to have one."""
    bidirectional: bool = False
    """Whether a decoder's tokens see what follows them, too."""
    name: str = "question-answering"
    columns: tuple[str, ...] = ("question", "context", "answers")
    inputs: tuple[str, ...] = ("question", "context")
    kept_together: tuple[str, ...] = ("context",)
    shown: ClassVar[dict[str, str]] = {"f1": "F1", "exact_match": "exact match"}
    watched: str = "f1"
    generation: None = None

    @classmethod
    def from_section(cls, section: sections.QuestionAnswering) -> QuestionAnswering:
        """The task of a recipe."""
        return cls(section.stride, section.max_answer_length, bidirectional=section.attention == "bidirectional")

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row, its question stripped; the passage stays as it is, since answers are places in it. Raises RowFault,
        and RowMended where an answer stands a few characters beside its place."""
        question, context = _text("question", values["question"]), _text("context", values["context"])
        checked: dict[str, Any] = {"question": question.strip(), "context": context}
        if "answers" not in values:
            return checked
        given = list(zip(values["answers"]["text"], values["answers"]["answer_start"], strict=True))
        found = [_found(context, text, start) for text, start in given]
        checked["answers"] = {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}
        for (text, start), (answer, there) in zip(given, found, strict=True):
            if there != (told := start + text.index(answer)):
                message = f"{shortened(answer)} stands at character {there} of the context, not {told}"
                raise RowMended("answers", message, checked)
        return checked

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> QuestionAnswering:
        """The task, knowing whether a question can have no answer: whether one of the training rows has none.

        Raises DataError when none of the training rows has an answer, or a held-out row has none but all training rows
        have one.
        """
        answered = {bool(row.values["answers"]["text"]) for row in train}
        if answered == {False}:
            raise DataError("no training row has an answer, so there is nothing to learn. Is `data.columns` right?")
        if answered == {True}:
            refuse_unlearned("answers", self.kinds, train, held_out)
            return self
        return dataclasses.replace(self, labels=(ANSWER, NO_ANSWER))

    def with_labels(self, labels: Sequence[str]) -> QuestionAnswering:
        """The task as an adapter was trained on it."""
        return dataclasses.replace(self, labels=tuple(labels))

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """Question and passage, in windows where that is longer than `max_length`."""
        from pefttune.tasks.passage import PassageEncoder

        return PassageEncoder(tokenizer, max_length, self.stride, causal=causal, bidirectional=self.bidirectional)

    def new_head(self, model: Any, *, causal: bool) -> Head:
        """A linear layer to two logits, as in transformers' …ForQuestionAnswering: of the answer's first token and of
        its last."""
        from pefttune.tasks.head import Head

        return Head(model, 2, key="qa_outputs", task_type="QUESTION_ANS")

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Negative log-likelihood, among the marks of its window, of where the answer begins and of where it ends:
        summed over the labelled windows."""
        import torch

        chances_N2 = torch.cat(_by_window(outputs, batch))
        (starts,) = torch.nonzero(batch.targets_N != UNKNOWN, as_tuple=True)
        ends = starts + batch.targets_N[starts]
        return -(chances_N2[starts, 0] + chances_N2[ends, 1]).sum()

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """For each window the log-probabilities (M, 2) of its marks to be where the answer begins, and ends."""
        return _by_window(outputs, batch)

    def average(self, scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The logarithms of the mean probabilities."""
        return mean_of_logs(scores, weights)

    def decode(self, row: Row, encoded: Encoded, scores: Sequence[Tensor]) -> Answer:
        """The most probable span over all windows, without the whitespace around it, or none."""
        from pefttune.tasks.spans import best_span

        start, end, probability = best_span(
            cast("tuple[Window, ...]", encoded),
            [window.numpy() for window in scores],
            self.max_answer_length,
            can_be_none=NO_ANSWER in self.labels,
        )
        return Answer(row.values["context"][start:end], start, end, probability, encoded[0].truncated)

    def metrics(self, predictions: Sequence[Answer], rows: Sequence[Row]) -> dict[str, Any]:
        """F1 and exact match of SQuAD; where some questions have an answer and some none, also F1 of those that have
        one, and how many of those that have none are said to have none."""
        import numpy as np

        agreements = np.array([_agreement(p.text, row) for p, row in zip(predictions, rows, strict=True)])
        answered = np.array([bool(row.values["answers"]["text"]) for row in rows])
        f1, exact_match = agreements.mean(axis=0)
        metrics = {"f1": float(f1), "exact_match": float(exact_match)}
        if answered.any() and not answered.all():
            metrics["has_answer_f1"] = float(agreements[answered, 0].mean())
            metrics["no_answer_accuracy"] = float(agreements[~answered, 0].mean())
        return metrics

    def tallies(self, predictions: Sequence[Answer], rows: Sequence[Row]) -> np.ndarray:
        """The row's F1, and 1: (rows, 2)."""
        import numpy as np

        return np.array([[_agreement(p.text, row)[0], 1] for p, row in zip(predictions, rows, strict=True)])

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """F1, the mean over rows."""
        f1: np.ndarray = tallies[..., 0] / tallies[..., 1]
        return f1

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Answer]]:
        """Of two, the one that has the greater F1 on the training rows: the sentence of the passage that has the most
        words of the question, or never an answer."""
        sentences = [_nearest_sentence(row) for row in train]
        unanswered = sum(not row.values["answers"]["text"] for row in train)
        if self.tallies(sentences, train)[:, 0].sum() >= unanswered:
            return "sentence like the question", [_nearest_sentence(row) for row in rows]
        return f"always {NO_ANSWER!r}", [Answer("", 0, 0, unanswered / len(train))] * len(rows)

    def reference(self, row: Row) -> str:
        """Its answers, each once."""
        return " / ".join(dict.fromkeys(row.values["answers"]["text"])) or NO_ANSWER

    def kinds(self, row: Row) -> tuple[str, ...]:
        """Whether it has an answer: what rows are counted by (`pefttune.doctor.Counts`)."""
        return (ANSWER if row.values["answers"]["text"] else NO_ANSWER,)

    def target_name(self, target: float) -> str:
        """That the answer begins here, and at which mark from here it ends; at the first mark, that there is none."""
        return f"begins, +{int(target)}"

    def zero_shot(self) -> None:
        """None: a head that was not trained knows nothing."""


def _found(context: str, text: str, start: int) -> tuple[str, int]:
    """The answer without whitespace around it, and where it stands: as told, or at the one place nearby. Raises
    RowFault."""
    answer = text.strip()
    if not answer:
        raise RowFault("answers", f"{text!r} is nothing but whitespace")
    told = start + text.index(answer)
    if start >= 0 and context.startswith(answer, told):
        return answer, told
    nearby = range(max(0, told - MOST_SHIFTED), told + MOST_SHIFTED + 1)
    places = [place for place in nearby if context.startswith(answer, place)]
    if len(places) == 1:
        return answer, places[0]
    if not 0 <= start <= len(context) - len(text):
        fault = f"at character {start} lies outside of the context, which has {len(context)}"
    else:
        there = shortened(context[start : start + len(text)])
        fault = f"does not stand at character {start} of the context, but {there}"
    raise RowFault("answers", f"{shortened(text)} {fault}")


def _by_window(outputs: Tensor, batch: ScoredBatch) -> list[Tensor]:
    """The logits (N, 2) as log-probabilities among the marks of each window: (M, 2) of each."""
    import torch

    marks = torch.bincount(batch.answers_N, minlength=batch.n_answers).tolist()
    return [torch.log_softmax(window_M2, dim=0) for window_M2 in outputs.split(marks)]


def _agreement(text: str, row: Row) -> tuple[float, float]:
    """F1 and exact match of an answer, the best over the references (arXiv:1606.05250); no answer is right where there
    is none (arXiv:1806.03822)."""
    from torchmetrics.functional.text import squad

    answers = {"text": row.values["answers"]["text"] or [""], "answer_start": row.values["answers"]["answer_start"]}
    found = squad({"prediction_text": text, "id": "0"}, {"answers": answers, "id": "0"})
    return float(found["f1"]) / 100, float(found["exact_match"]) / 100


def _nearest_sentence(row: Row) -> Answer:
    context = row.values["context"]
    asked = set(_words(row.values["question"]))
    sentences = list(re.finditer(r"\S(?:.*?[.!?](?=\s|$)|.*)", context, re.DOTALL))
    best = max(sentences, key=lambda sentence: len(asked & set(_words(sentence[0]))))
    return Answer(best[0], *best.span(), 1.0)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowFault(column, f"is {type(value).__name__}, not text")
    if is_blank(value):
        raise RowFault(column, "is empty")
    return value
