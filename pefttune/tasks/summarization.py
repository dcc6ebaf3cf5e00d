"""Summarization: the language model writes a short text for a long one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.errors import BaseError
from pefttune.recipe import tasks as sections
from pefttune.tasks.checks import checked_text
from pefttune.tasks.protocol import Encoded, Encoder, Generation, ScoredBatch, Writing
from pefttune.tasks.rouge import SHOWN, mean_rouge, rouge
from pefttune.tasks.written import Written, by_example, unfinished, written

if TYPE_CHECKING:  # torch is imported when a batch is scored, so that bad data fails first
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.chat import Message


@dataclass(frozen=True)
class Summarization:
    """See `pefttune.tasks.protocol.Task`. Of several references the first is learned; a summary is judged by the one
    that it fits best."""

    instruction: str | None
    generation: Generation
    name: str = "summarization"
    columns: tuple[str, ...] = ("document", "summary")
    inputs: tuple[str, ...] = ("document",)
    kept_together: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    watched: str = "log_likelihood"
    shown: ClassVar[dict[str, str]] = SHOWN

    @classmethod
    def from_section(cls, section: sections.Summarization) -> Summarization:
        """The task of a recipe."""
        return cls(section.instruction, Generation(section.max_new_tokens, section.min_new_tokens, section.num_beams))

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its texts stripped. Raises RowFault."""
        checked: dict[str, Any] = {"document": checked_text(values["document"], "document")}
        if "summary" in values:
            summaries = values["summary"] if isinstance(values["summary"], list | tuple) else [values["summary"]]
            checked["summary"] = [checked_text(summary, "summary") for summary in summaries]
            if not checked["summary"]:
                raise RowFault("summary", "is empty")
        return checked

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> Summarization:
        """The task itself: there are no labels."""
        return self

    def with_labels(self, labels: Sequence[str]) -> Summarization:
        """The task itself: there are no labels."""
        return self

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """Instruction and document through the chat template; only the document is cut, at its end."""
        if not causal:
            raise BaseError("this base is an encoder and cannot write summaries: take a decoder")
        from pefttune.tasks.answering import AnswerEncoder

        most = self.generation.max_new_tokens
        return AnswerEncoder(tokenizer, _conversation, self.instruction, max_length, most, longest_reply=most)

    def pair_encoder(self, tokenizer: Any, max_length: int) -> Encoder:
        """Instruction and document for the encoder."""
        from pefttune.tasks.pairs import PairEncoder

        most = self.generation.max_new_tokens
        return PairEncoder(tokenizer, _conversation, self.instruction, max_length, most, longest_reply=most)

    def new_head(self, model: Any, *, causal: bool) -> None:
        """None: the language model's own output layer writes."""

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Cross-entropy summed over the tokens of the references."""
        return -outputs.sum()

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """Log-likelihoods of the first reference's tokens: (tokens,) for each example."""
        return by_example(outputs, batch)

    def decode(self, row: Row, encoded: Encoded, scores: Sequence[Writing]) -> Written:
        """The summary that was written."""
        return written(scores[0], [row.values["document"]], encoded)

    def metrics(self, predictions: Sequence[Written], rows: Sequence[Row]) -> dict[str, Any]:
        """ROUGE, and the share of summaries that were cut at the longest answer."""
        texts = [prediction.text for prediction in predictions]
        return mean_rouge(texts, [_references(row) for row in rows]) | {"unfinished": unfinished(predictions)}

    def tallies(self, predictions: Sequence[Written], rows: Sequence[Row]) -> np.ndarray:
        """ROUGE-L, and 1: (rows, 2)."""
        import numpy as np

        pairs = zip(predictions, rows, strict=True)
        return np.array([[rouge(prediction.text, _references(row))["rouge_l"], 1] for prediction, row in pairs], float)

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """Mean ROUGE-L."""
        mean: np.ndarray = tallies[..., 0] / tallies[..., 1]
        return mean

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Written]]:
        """The document's first sentences, as many as the summaries of the training rows have on average."""
        count = max(1, round(sum(len(_sentences(self.reference(row))) for row in train) / len(train)))
        leads = [" ".join(_sentences(row.values["document"])[:count]) for row in rows]
        name = "the first sentence" if count == 1 else f"the first {count} sentences"
        return name, [
            Written(lead, (row.values["document"],), 1.0, False) for lead, row in zip(leads, rows, strict=True)
        ]

    def reference(self, row: Row) -> str:
        """Its first summary."""
        return str(row.values["summary"][0])

    def target_name(self, target: float) -> str:
        """The number of a token; a summary is learned as an answer, without marks."""
        return str(int(target))

    def zero_shot(self) -> Summarization:
        """The same instruction."""
        return self


def _conversation(row: Row) -> tuple[list[Message], str | None]:
    summaries = row.values.get("summary")
    return [{"role": "user", "content": row.values["document"]}], summaries[0] if summaries else None


def _references(row: Row) -> tuple[str, ...]:
    return tuple(row.values["summary"])


def _sentences(text: str) -> list[str]:
    """A sentence ends with its mark, or with its line: each turn of a dialogue counts."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+|\n+", text) if sentence]
