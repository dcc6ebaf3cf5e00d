"""Text regression: a number for a text, by a head with one output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pefttune.data import UNKNOWN, Row
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened
from pefttune.errors import DataError
from pefttune.tasks.averaging import mean
from pefttune.tasks.checks import checked_text
from pefttune.tasks.protocol import Encoded, Encoder, Piece, ScoredBatch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.head import Head

LARGEST = 1e18  # the squares of hundreds of such numbers can still be summed in float32


@dataclass(frozen=True)
class Number:
    """The number that is predicted of a text."""

    value: float
    truncated: bool
    confidence: float = math.nan
    """Not known: squared error says nothing of it."""

    def __str__(self) -> str:
        return f"{self.value:.4g}"

    def columns(self) -> dict[str, Any]:
        """The number."""
        return {"prediction": self.value, "confidence": None, "truncated": self.truncated}

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """The text, nothing in it marked."""
        return (Piece(row.values["text"]),)


@dataclass(frozen=True)
class TextRegression:
    """See `pefttune.tasks.protocol.Task`."""

    name: str = "text-classification"
    columns: tuple[str, ...] = ("text", "label")
    inputs: tuple[str, ...] = ("text",)
    kept_together: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shown: ClassVar[dict[str, str]] = {"r2": "R²", "pearson": "Pearson", "spearman": "Spearman"}
    watched: str = "r2"
    generation: None = None

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its text stripped and its label a number. Raises RowFault."""
        checked: dict[str, Any] = {"text": checked_text(values["text"])}
        if "label" in values:
            checked["label"] = _number(values["label"])
        return checked

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> TextRegression:
        """Itself. Raises DataError when all training rows have the same number."""
        if len({row.values["label"] for row in train}) < 2:
            raise DataError(f"every training row has the label {train[0].values['label']:g}: there is nothing to learn")
        return self

    def with_labels(self, labels: Sequence[str]) -> TextRegression:
        """Itself: there are none."""
        return self

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """The bare text."""
        from pefttune.tasks.prompt import HeadEncoder

        return HeadEncoder(tokenizer, _target, max_length, causal=causal)

    def new_head(self, model: Any, *, causal: bool) -> Head:
        """A linear layer with one output."""
        from pefttune.tasks.head import Head

        return Head.of_text(model, 1, causal=causal)

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Squared error summed over the examples."""
        from torch.nn.functional import mse_loss

        return mse_loss(outputs[:, 0], batch.targets_N.float(), reduction="sum")

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """The number: (1,) for each example."""
        return outputs.unbind()

    def average(self, scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The mean number."""
        return mean(scores, weights)

    def decode(self, row: Row, encoded: Encoded, scores: Sequence[Any]) -> Number:
        """The number."""
        return Number(float(scores[0]), encoded[0].truncated)

    def metrics(self, predictions: Sequence[Number], rows: Sequence[Row]) -> dict[str, Any]:
        """R², mean absolute error, Pearson's and Spearman's correlation (0 where all predictions are the same)."""
        import numpy as np
        from scipy.stats import pearsonr, spearmanr

        predicted = np.array([p.value for p in predictions])
        right = np.array([row.values["label"] for row in rows])
        varied = len(set(predicted)) > 1 and len(set(right)) > 1
        return {
            "r2": float(self.primary_of(self.tallies(predictions, rows).sum(0))),
            "mean_absolute_error": float(np.abs(predicted - right).mean()),
            "pearson": float(pearsonr(predicted, right).statistic) if varied else 0.0,
            "spearman": float(spearmanr(predicted, right).statistic) if varied else 0.0,
        }

    def tallies(self, predictions: Sequence[Number], rows: Sequence[Row]) -> np.ndarray:
        """1, the number and its square, both from the mean of the rows, or large numbers would lose their differences;
        and the squared error: (rows, 4)."""
        import numpy as np

        predicted = np.array([p.value for p in predictions])
        right = np.array([row.values["label"] for row in rows], float)
        centred = right - right.mean()
        return np.stack([np.ones_like(right), centred, centred**2, (predicted - right) ** 2], axis=1)

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """R²; where the numbers do not differ, as in a single row, minus the squared error."""
        import numpy as np

        count, total, squares, error = np.moveaxis(tallies, -1, 0)
        spread = squares - total**2 / count
        differs = spread > 1e-9 * squares
        result: np.ndarray = np.where(differs, 1 - error / np.where(differs, spread, 1), -error)
        return result

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Number]]:
        """Always the mean of the training rows."""
        mean = sum(row.values["label"] for row in train) / len(train)
        return f"always {mean:.3g}", [Number(mean, False)] * len(rows)

    def reference(self, row: Row) -> str:
        """Its number."""
        return f"{row.values['label']:.4g}"

    def target_name(self, target: float) -> str:
        """The number."""
        return f"{target:.4g}"

    def zero_shot(self) -> None:
        """None: a head cannot be asked before it is trained."""


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise RowFault("label", f"is {shortened(value)}, not a number")
    if abs(number) > LARGEST:
        raise RowFault("label", f"is {number:g}, of which the squared error has no place in float32; scale the labels")
    if number == UNKNOWN:
        raise RowFault("label", f"is {UNKNOWN}, which stands for a number that is not known; scale or shift the labels")
    return number


def _target(row: Row) -> tuple[float]:
    label = row.values.get("label")
    return (float(UNKNOWN if label is None else label),)
