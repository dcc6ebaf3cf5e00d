"""Predictions as a page: each row's text with what was found in it marked, entities and answers in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from pefttune.data import Row
from pefttune.evaluation.report.examples import Passage, passage
from pefttune.evaluation.report.page import TAG_COLOURS, environment
from pefttune.tasks import Piece, Prediction


@dataclass(frozen=True)
class _Shown:
    origin: str
    text: Passage
    told: Passage
    confidence: float
    truncated: bool


class _Colours(dict[str, int]):
    """A colour for each tag, in the order in which they are met: the rows are not known beforehand."""

    def __missing__(self, tag: str) -> int:
        return self.setdefault(tag, len(self) % TAG_COLOURS)


def predictions_page(name: str, predicted: Iterable[tuple[Row, Prediction]]) -> Iterator[str]:
    """The parts of an HTML page that needs nothing else, made while the rows come; `name` is the adapter's."""
    shown = (
        _Shown(
            row.origin,
            passage(prediction.pieces(row)),
            passage([Piece(str(prediction))]),
            prediction.confidence,
            prediction.truncated,
        )
        for row, prediction in predicted
    )
    template = environment().get_template("predictions.html.jinja")
    return template.generate(name=name, rows=shown, colours=_Colours(), version=version("pefttune"))
