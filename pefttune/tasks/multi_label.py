"""Multi-label text classification: any number of labels for a text, each decided for itself by a head."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pefttune.data import UNKNOWN, Row
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened
from pefttune.errors import DataError
from pefttune.recipe import tasks as sections
from pefttune.tasks.averaging import mean
from pefttune.tasks.checks import checked_label, checked_text, refuse_unlearned
from pefttune.tasks.protocol import Encoded, Encoder, Piece, ScoredBatch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.head import Head

_FLAGS = {"0", "1", "False", "True"}


@dataclass(frozen=True)
class Labelled:
    """The labels of a text, which may be none, and how likely the model finds each one."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    truncated: bool

    def __str__(self) -> str:
        return ", ".join(self.labels) or "none"

    @property
    def confidence(self) -> float:
        """How sure the least sure of its decisions is."""
        return min(max(p, 1 - p) for p in self.probabilities.values())

    def columns(self) -> dict[str, Any]:
        """The labels and how sure they are."""
        return {"prediction": list(self.labels), "confidence": self.confidence, "truncated": self.truncated}

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """The text, nothing in it marked."""
        return (Piece(row.values["text"]),)


@dataclass(frozen=True)
class MultiLabel:
    """See `pefttune.tasks.protocol.Task`."""

    labels: tuple[str, ...]
    name: str = "text-classification"
    columns: tuple[str, ...] = ("text", "label")
    inputs: tuple[str, ...] = ("text",)
    kept_together: tuple[str, ...] = ()
    shown: ClassVar[dict[str, str]] = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "exact": "all labels right"}
    watched: str = "micro_f1"
    generation: None = None

    @classmethod
    def from_section(cls, section: sections.TextClassification) -> MultiLabel:
        """The task of a recipe; without `labels` there, they are those of the training rows."""
        return cls(tuple(section.labels or ()))

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its text stripped and its labels a sorted list. Raises RowFault."""
        checked: dict[str, Any] = {"text": checked_text(values["text"])}
        if "label" in values:
            checked["label"] = self._labels(values["label"])
        return checked

    def _labels(self, value: Any) -> list[str]:
        parts = _parts(value) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise RowFault("label", f"is {type(value).__name__}, not a list of labels or words joined by commas")
        names = [checked_label(part, self.labels) for part in parts if not isinstance(part, str) or part.strip()]
        labels = sorted({*names})
        if len(labels) < len(names) and {*labels} <= _FLAGS:
            raise RowFault("label", f"is {shortened(value)}, a flag for each label: name those that the row has")
        for label in labels:
            if self.labels and label not in self.labels:
                raise RowFault("label", f"{label!r} is not one of {', '.join(self.labels)}")
        return labels

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> MultiLabel:
        """The task with its labels settled from the training rows. Raises DataError."""
        seen = {label for row in train for label in row.values["label"]}
        if not seen:
            raise DataError("no training row has a label: there is nothing to learn. Is `data.columns` right?")
        refuse_unlearned("label", self.kinds, train, held_out)
        labels = self.labels or sorted(seen)
        if len(labels) < 2:
            raise DataError(f"there is only the label {labels[0]!r}: name it and its absence, as two single labels")
        if all(seen == {*row.values["label"]} for row in train):
            flags = "; write their names instead of flags" if seen <= _FLAGS else ""
            told = f"every training row has all labels ({', '.join(sorted(seen))}): there is nothing to learn{flags}"
            raise DataError(told)
        return self.with_labels(labels)

    def with_labels(self, labels: Sequence[str]) -> MultiLabel:
        """The task with the labels that an adapter was trained on."""
        return dataclasses.replace(self, labels=tuple(labels))

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """The bare text, read once for every label."""
        from pefttune.tasks.prompt import HeadEncoder

        return HeadEncoder(tokenizer, self._targets, max_length, causal=causal)

    def _targets(self, row: Row) -> tuple[int, ...]:
        own = row.values.get("label")
        return tuple(UNKNOWN if own is None else int(label in own) for label in self.labels)

    def new_head(self, model: Any, *, causal: bool) -> Head:
        """A linear layer with an output for each label."""
        from pefttune.tasks.head import Head

        return Head.of_text(model, len(self.labels), causal=causal)

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Binary cross-entropy summed over labels and examples."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(self._own(outputs), batch.targets_N.float(), reduction="sum")

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """The probability of each label: (C,) for each example."""
        return self._own(outputs).sigmoid().view(-1, len(self.labels)).unbind()

    def _own(self, outputs: Tensor) -> Tensor:
        """Each row is there for one label: its logit (N,) of the (N, C), which repeat."""
        import torch

        return outputs[torch.arange(len(outputs)), torch.arange(len(outputs)) % len(self.labels)]

    def average(self, scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The mean probability of each label."""
        return mean(scores, weights)

    def decode(self, row: Row, encoded: Encoded, scores: Sequence[Any]) -> Labelled:
        """The labels that are likelier than not."""
        probabilities = dict(zip(self.labels, scores[0].tolist(), strict=True))
        return Labelled(
            tuple(label for label, p in probabilities.items() if p > 0.5), probabilities, encoded[0].truncated
        )

    def metrics(self, predictions: Sequence[Labelled], rows: Sequence[Row]) -> dict[str, Any]:
        """Micro- and macro-F1, how many rows have all labels right, precision, recall and F1 of each label."""
        from sklearn.metrics import precision_recall_fscore_support

        predicted = self._table([p.labels for p in predictions])
        right = self._table([row.values["label"] for row in rows])
        per_class = precision_recall_fscore_support(right, predicted, average=None, zero_division=0.0)
        return {
            "micro_f1": float(self.primary_of(self.tallies(predictions, rows).sum(0))),
            "macro_f1": float(per_class[2].mean()),
            "exact": float((predicted == right).all(1).mean()),
            "per_class": {
                label: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
                for label, p, r, f, n in zip(self.labels, *per_class, strict=True)
            },
        }

    def _table(self, labels: Sequence[Sequence[str]]) -> np.ndarray:
        import numpy as np

        return np.array([[label in own for label in self.labels] for own in labels], dtype=int)

    def tallies(self, predictions: Sequence[Labelled], rows: Sequence[Row]) -> np.ndarray:
        """Labels that were found, that were found and right, and that should have been: (rows, 3)."""
        import numpy as np

        pairs = [(set(p.labels), set(row.values["label"])) for p, row in zip(predictions, rows, strict=True)]
        return np.array([[len(found), len(found & right), len(right)] for found, right in pairs], float)

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """Micro-F1; 1 where there was nothing to find and nothing was found."""
        import numpy as np

        total = tallies[..., 0] + tallies[..., 2]
        result: np.ndarray = np.where(total > 0, 2 * tallies[..., 1] / np.maximum(total, 1), 1.0)
        return result

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Labelled]]:
        """Always the labels that most training rows have, or the commonest one."""
        counts = Counter(label for row in train for label in row.values["label"])
        shares = {label: counts[label] / len(train) for label in self.labels}
        common = tuple(label for label in self.labels if shares[label] > 0.5) or (counts.most_common(1)[0][0],)
        return f"always {', '.join(map(repr, common))}", [Labelled(common, shares, False)] * len(rows)

    def reference(self, row: Row) -> str:
        """Its labels."""
        return ", ".join(row.values["label"]) or "none"

    def kinds(self, row: Row) -> tuple[str, ...]:
        """Its labels: what rows are counted by (`pefttune.doctor.Counts`)."""
        return tuple(row.values["label"])

    def target_name(self, target: float) -> str:
        """Whether one of the labels is right; each label has a mark of its own."""
        return "yes" if target else "no"

    def zero_shot(self) -> None:
        """None: a head cannot be asked before it is trained."""


def _parts(value: str) -> list[Any]:
    """Words joined by commas, or the JSON that a list is in a CSV file."""
    if not re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL):
        return value.split(",")
    try:
        parts: list[Any] = json.loads(value)
    except (ValueError, RecursionError):
        if re.search(r"\]\s*,\s*\[", value):  # labels that stand in brackets each
            return value.split(",")
        told = f'{shortened(value)} is no list in JSON, such as ["a", "b"]; words joined by commas will do as well'
        raise RowFault("label", told) from None
    return parts
