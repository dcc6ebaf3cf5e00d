"""Text generation: instruction following and chat. The loss is on the assistant's turns alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.data.messages import from_messages
from pefttune.errors import BaseError
from pefttune.recipe import tasks as sections
from pefttune.tasks.checks import checked_text
from pefttune.tasks.protocol import Encoded, Encoder, Generation, ScoredBatch, Writing
from pefttune.tasks.rouge import mean_rouge, rouge
from pefttune.tasks.written import Written, by_example, unfinished, written

if TYPE_CHECKING:  # torch is imported when a batch is scored, so that bad data fails first
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.chat import Message


@dataclass(frozen=True)
class TextGeneration:
    """See `pefttune.tasks.protocol.Task`. A row is a conversation up to the user's turn, and the reply to it; earlier
    turns of the assistant are learned as well."""

    system: str | None
    answer_after: str | None
    generation: Generation
    name: str = "text-generation"
    columns: tuple[str, ...] = ("messages", "reply")
    inputs: tuple[str, ...] = ("messages",)
    kept_together: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    watched: str = "log_likelihood"

    @classmethod
    def from_section(cls, section: sections.TextGeneration) -> TextGeneration:
        """The task of a recipe."""
        generation = Generation(section.max_new_tokens, num_beams=section.num_beams)
        return cls(section.system, section.answer_after, generation)

    @property
    def shown(self) -> Mapping[str, str]:
        """Exact match first where it is known what the answer proper is, else ROUGE-L."""
        both = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}
        return both if self.answer_after else dict(reversed(both.items()))

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The conversation up to the user's last turn; a text is one turn. Raises RowFault."""
        messages = from_messages(values)
        while messages and messages[-1]["role"] != "user":
            messages.pop()
        if not messages:
            raise RowFault("messages", "has no turn of the user, to be answered")
        checked: dict[str, Any] = {"messages": [{**turn, "content": turn["content"].strip()} for turn in messages]}
        if "reply" in values:
            checked["reply"] = checked_text(values["reply"], "reply")
            if self.answer_after and self.answer_after not in checked["reply"]:
                raise RowFault("reply", f"does not have {self.answer_after!r}, after which the answer is to stand")
        return checked

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> TextGeneration:
        """The task itself: there are no labels."""
        return self

    def with_labels(self, labels: Sequence[str]) -> TextGeneration:
        """The task itself: there are no labels."""
        return self

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """The conversation through the chat template."""
        if not causal:
            raise BaseError("this base is an encoder and cannot write: take a decoder")
        from pefttune.tasks.answering import AnswerEncoder

        return AnswerEncoder(tokenizer, _conversation, self.system, max_length, self.generation.max_new_tokens)

    def pair_encoder(self, tokenizer: Any, max_length: int) -> Encoder:
        """The conversation for the encoder, the reply for the decoder."""
        from pefttune.tasks.pairs import PairEncoder

        return PairEncoder(tokenizer, _conversation, self.system, max_length, self.generation.max_new_tokens)

    def new_head(self, model: Any, *, causal: bool) -> None:
        """None: the language model's own output layer writes."""

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Cross-entropy summed over the tokens of the assistant's turns."""
        return -outputs.sum()

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """Log-likelihoods of the tokens of the assistant's turns: (tokens,) for each example."""
        return by_example(outputs, batch)

    def decode(self, row: Row, encoded: Encoded, scores: Sequence[Writing]) -> Written:
        """The reply that was written."""
        return written(scores[0], _read(row), encoded)

    def metrics(self, predictions: Sequence[Written], rows: Sequence[Row]) -> dict[str, Any]:
        """Exact match, ROUGE, and the share of replies that were cut at the longest answer."""
        matches = [self._matches(prediction, row) for prediction, row in zip(predictions, rows, strict=True)]
        texts, references = [prediction.text for prediction in predictions], [(self.reference(row),) for row in rows]
        return {
            "exact_match": sum(matches) / len(matches),
            **mean_rouge(texts, references),
            "unfinished": unfinished(predictions),
        }

    def tallies(self, predictions: Sequence[Written], rows: Sequence[Row]) -> np.ndarray:
        """The primary metric of a row, and 1: (rows, 2)."""
        import numpy as np

        pairs = zip(predictions, rows, strict=True)
        return np.array([[self._primary(prediction, row), 1] for prediction, row in pairs], float)

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """The mean."""
        mean: np.ndarray = tallies[..., 0] / tallies[..., 1]
        return mean

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Written]]:
        """Always the commonest answer of the training rows, where it is known what the answer proper is; else the
        user's own words, said again."""
        if not self.answer_after:
            return "the user's words again", [Written(_read(row)[-1], _read(row), 1.0, False) for row in rows]
        commonest = Counter(self._answer(self.reference(row)) for row in train).most_common(1)[0][0]
        text = f"{self.answer_after} {commonest}"
        return f"always {text!r}", [Written(text, _read(row), 1.0, False) for row in rows]

    def reference(self, row: Row) -> str:
        """Its reply."""
        return str(row.values["reply"])

    def target_name(self, target: float) -> str:
        """The number of the token that comes next."""
        return str(int(target))

    def zero_shot(self) -> TextGeneration:
        """The same conversation."""
        return self

    def _primary(self, prediction: Written, row: Row) -> float:
        if self.answer_after:
            return self._matches(prediction, row)
        return rouge(prediction.text, (self.reference(row),))["rouge_l"]

    def _matches(self, prediction: Written, row: Row) -> bool:
        answer = self._answer(prediction.text)
        return answer is not None and answer == self._answer(self.reference(row))

    def _answer(self, text: str) -> str | None:
        """What is compared: one space for any, no comma within a number and no dollar sign before it, as GSM8K's
        (arXiv:2110.14168); None where the answer proper is missing."""
        if self.answer_after:
            _, found, text = text.rpartition(self.answer_after)
            if not found:
                return None
        return re.sub(r"(?<=\d),(?=\d)|\$(?=\s?[\d.-])", "", " ".join(text.split()))


def _conversation(row: Row) -> tuple[Sequence[Message], str | None]:
    return row.values["messages"], row.values.get("reply")


def _read(row: Row) -> tuple[str, ...]:
    return tuple(message["content"] for message in row.values["messages"])
