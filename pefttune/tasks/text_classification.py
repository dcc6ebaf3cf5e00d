"""Text classification: by the label words of the language model, or by a linear head. One label for a text."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pefttune.data import UNKNOWN, Row
from pefttune.data.faults import RowFault
from pefttune.errors import BaseError, DataError
from pefttune.recipe import tasks as sections
from pefttune.tasks.averaging import mean_of_logs
from pefttune.tasks.calibration import calibration_error
from pefttune.tasks.checks import checked_label, checked_text, refuse_unlearned
from pefttune.tasks.protocol import Encoded, Encoder, Piece, ScoredBatch

if TYPE_CHECKING:  # torch is imported when a batch is scored, so that bad data fails first
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.head import Head


@dataclass(frozen=True)
class Classified:
    """The label of a text, and how likely the model finds each one."""

    label: str
    probabilities: dict[str, float]
    truncated: bool

    def __str__(self) -> str:
        return self.label

    @property
    def confidence(self) -> float:
        """Probability of the predicted label."""
        return self.probabilities[self.label]

    def columns(self) -> dict[str, Any]:
        """The label and its probability."""
        return {"prediction": self.label, "confidence": self.confidence, "truncated": self.truncated}

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """The text, nothing in it marked."""
        return (Piece(row.values["text"]),)


@dataclass(frozen=True)
class TextClassification:
    """See `pefttune.tasks.protocol.Task`."""

    approach: str
    labels: tuple[str, ...]
    instruction: str
    closed: bool = True
    """Whether the end of the answer counts in its likelihood."""
    name: str = "text-classification"
    columns: tuple[str, ...] = ("text", "label")
    inputs: tuple[str, ...] = ("text",)
    kept_together: tuple[str, ...] = ()
    shown: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "calibration_error": "calibration error",
    }

    watched: str = "accuracy"
    generation: None = None

    @classmethod
    def from_section(cls, section: sections.TextClassification) -> TextClassification:
        """The task of a recipe; without `labels` there, they are those of the training rows."""
        return cls(section.approach, tuple(section.labels or ()), section.instruction)

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its text stripped and its label a known name. Raises RowFault."""
        checked = {"text": checked_text(values["text"])}
        if "label" in values:
            checked["label"] = self._label(values["label"])
        return checked

    def _label(self, value: Any) -> str:
        label = checked_label(value, self.labels)
        if self.labels and label not in self.labels:
            close = difflib.get_close_matches(label, self.labels, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise RowFault("label", f"{label!r} is not one of {', '.join(self.labels)}{hint}")
        return label

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> TextClassification:
        """The task with its labels settled from the training rows.

        Raises DataError when there is only one class to learn, or a held-out row has a label that no training row has.
        """
        seen = Counter(row.values["label"] for row in train)
        labels = self.labels or tuple(sorted(seen))
        if len(seen) < 2:
            only = next(iter(seen), "none")
            raise DataError(
                f"every training row has the label {only!r}: with one class there is nothing to learn. "
                "Is `data.columns` right, and is the file sorted or filtered by label?"
            )
        refuse_unlearned("label", self.kinds, train, held_out)
        return dataclasses.replace(self, labels=labels)

    def with_labels(self, labels: Sequence[str]) -> TextClassification:
        """The task with the labels that an adapter was trained on."""
        return dataclasses.replace(self, labels=tuple(labels))

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """Prompt and label words through the chat template, or the bare text for a head."""
        from pefttune.tasks.prompt import HeadEncoder, LabelWordEncoder

        if self.approach == "head":
            return HeadEncoder(tokenizer, self._target, max_length, causal=causal)
        if not causal:
            raise BaseError("this base is an encoder and cannot answer in words: set task.approach to head")
        instruction = self.instruction.replace("{labels}", ", ".join(self.labels))
        return LabelWordEncoder(tokenizer, self.labels, instruction, max_length, self.closed)

    def _target(self, row: Row) -> tuple[int]:
        label = row.values.get("label")
        return (UNKNOWN if label is None else self.labels.index(label),)

    def new_head(self, model: Any, *, causal: bool) -> Head | None:
        """A linear layer, or None for the label words."""
        if self.approach != "head":
            return None
        from pefttune.tasks.head import Head

        return Head.of_text(model, len(self.labels), causal=causal)

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Cross-entropy summed over the answer's tokens, or over the examples for a head."""
        from torch.nn.functional import cross_entropy

        if self.approach == "head":
            return cross_entropy(outputs, batch.targets_N, reduction="sum")
        return -outputs.sum()

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """Log-likelihood of each label's whole answer, or log-softmax of the head's logits: (C,) for each example."""
        import torch

        if self.approach == "head":
            return torch.log_softmax(outputs, dim=-1).unbind()
        totals = torch.zeros(batch.n_answers, device=outputs.device).index_add(0, batch.answers_N, outputs)
        return totals.reshape(-1, len(self.labels)).unbind()

    def average(self, scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The logarithms of the labels' mean probabilities."""
        return mean_of_logs([each.log_softmax(-1) for each in scores], weights)

    def decode(self, row: Row, encoded: Encoded, scores: Sequence[Tensor]) -> Classified:
        """The likeliest label, with probabilities over the labels."""
        import numpy as np
        from scipy.special import softmax

        probabilities = softmax(scores[0].double().numpy())
        best = self.labels[int(np.argmax(probabilities))]
        by_label = dict(zip(self.labels, map(float, probabilities), strict=True))
        return Classified(best, by_label, encoded[0].truncated)

    def metrics(self, predictions: Sequence[Classified], rows: Sequence[Row]) -> dict[str, Any]:
        """Accuracy, macro-F1, precision, recall and F1 per class, expected calibration error, confusion matrix."""
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

        predicted, references = [prediction.label for prediction in predictions], [self.reference(row) for row in rows]
        per_class = precision_recall_fscore_support(references, predicted, labels=self.labels, zero_division=0.0)
        right = [p == r for p, r in zip(predicted, references, strict=True)]
        return {
            "accuracy": sum(right) / len(right),
            "macro_f1": float(per_class[2].mean()),
            "calibration_error": calibration_error([prediction.confidence for prediction in predictions], right),
            "per_class": {
                label: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
                for label, p, r, f, n in zip(self.labels, *per_class, strict=True)
            },
            "confusion": confusion_matrix(references, predicted, labels=self.labels).tolist(),
        }

    def tallies(self, predictions: Sequence[Classified], rows: Sequence[Row]) -> np.ndarray:
        """Whether the row is right, and 1: (rows, 2)."""
        import numpy as np

        return np.array([[p.label == self.reference(row), 1] for p, row in zip(predictions, rows, strict=True)], float)

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """Accuracy."""
        right: np.ndarray = tallies[..., 0] / tallies[..., 1]
        return right

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Classified]]:
        """Always the commonest label, as sure of each as it is frequent."""
        counts = Counter(self.reference(row) for row in train)
        shares = {label: counts[label] / len(train) for label in self.labels}
        commonest = counts.most_common(1)[0][0]
        return f"always {commonest!r}", [Classified(commonest, shares, False)] * len(rows)

    def reference(self, row: Row) -> str:
        """Its label."""
        return str(row.values["label"])

    def kinds(self, row: Row) -> tuple[str, ...]:
        """Its label: what rows are counted by (`pefttune.doctor.Counts`)."""
        return (self.reference(row),)

    def target_name(self, target: float) -> str:
        """The label."""
        return self.labels[int(target)]

    def zero_shot(self) -> TextClassification:
        """The label words: the one way to ask a base that has no head.

        Without the end of the answer: a base that was never told to stop after one word would be judged by that.
        """
        return dataclasses.replace(self, approach="label-words", closed=False)
