"""Rows worth reading: those that the adapter mends or breaks, and those it gets wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pefttune.data import Row
from pefttune.evaluation.report.findings import Findings
from pefttune.evaluation.scoring import Scored
from pefttune.tasks import Piece, Prediction

MOST_ROWS = 10
SHOWN_CHARACTERS = 400
BEFORE_A_MARK = 150
KEPT_CHARACTERS = 20_000
"""A page is no place for a book; what is cut off is said."""


@dataclass(frozen=True)
class Passage:
    """A text with what is marked in it: its beginning, or what stands around the first mark where that is farther on,
    and the whole where that is longer."""

    short: tuple[Piece, ...]
    whole: tuple[Piece, ...]
    characters: int

    @property
    def cut(self) -> bool:
        """Whether there is more than is shown first."""
        return self.characters > SHOWN_CHARACTERS

    @property
    def clipped(self) -> bool:
        """Whether even the whole is not all of it."""
        return self.characters > KEPT_CHARACTERS

    @property
    def tags(self) -> set[str]:
        """Those of what is marked."""
        return {piece.tag for piece in self.whole if piece.tag}


@dataclass(frozen=True)
class Answer:
    """What somebody says of a row, and the row's text as they mark it."""

    who: str
    told: Passage
    confidence: float
    score: float
    text: Passage


@dataclass(frozen=True)
class Shown:
    """A row, its right answer, and what the adapter and the one it is compared with first say."""

    origin: str
    reference: Passage
    answers: tuple[Answer, ...]

    @property
    def marked(self) -> bool:
        """Whether the answers are marks in the text, so that each is drawn in its own copy of it."""
        return any(answer.text.tags for answer in self.answers)


@dataclass(frozen=True)
class Gallery:
    """Rows of one kind, the most telling first, and how many there are of it."""

    title: str
    explained: str
    count: int
    rows: tuple[Shown, ...]

    @property
    def tags(self) -> set[str]:
        """All tags that are marked in its rows."""
        return {tag for row in self.rows for answer in row.answers for tag in answer.text.tags}


def galleries(findings: Findings) -> list[Gallery]:
    """Rows fixed and broken against the first other, mistakes the model was sure of, and mistakes on long texts."""
    ours, theirs = findings.adapter, findings.others[0]
    score, before = findings.row_scores(ours), findings.row_scores(theirs)
    sure = np.array([prediction.confidence for prediction in ours.predictions])
    lengths = np.array([sum(len(p.text) for p in each.pieces(row)) for each, row in _pairs(ours)])
    rows = np.arange(len(score))
    fixed, broken, wrong = rows[score > before], rows[score < before], rows[score < 1]

    def gallery(title: str, explained: str, found: np.ndarray, *keys: np.ndarray) -> Gallery:
        order = found[np.lexsort([found, *(-key[found] for key in reversed(keys))])]
        shown = tuple(_shown(findings, theirs, int(i), score, before) for i in order[:MOST_ROWS])
        return Gallery(title, explained, len(found), shown)

    return [
        gallery(
            "Fixed", f"better than {theirs.name}; the greatest gains and the surest first", fixed, score - before, sure
        ),
        gallery(
            "Broken",
            f"worse than {theirs.name}; the greatest losses and the surest first",
            broken,
            before - score,
            sure,
        ),
        gallery("Most confident mistakes", "not fully right, the worst and the surest first", wrong, -score, sure),
        gallery("Mistakes on the longest texts", "not fully right, the longest first", wrong, lengths),
    ]


def _pairs(scored: Scored) -> Iterable[tuple[Prediction, Row]]:
    return zip(scored.predictions, scored.rows, strict=True)


def _shown(findings: Findings, theirs: Scored, i: int, score: np.ndarray, before: np.ndarray) -> Shown:
    row = findings.adapter.rows[i]

    def answer(scored: Scored, value: float) -> Answer:
        said = scored.predictions[i]
        return Answer(scored.name, passage([Piece(str(said))]), said.confidence, value, passage(said.pieces(row)))

    answers = (answer(theirs, float(before[i])), answer(findings.adapter, float(score[i])))
    return Shown(row.origin, passage([Piece(findings.task.reference(row))]), answers)


def passage(pieces: Sequence[Piece]) -> Passage:
    """The pieces as far as they are shown."""
    characters = sum(len(piece.text) for piece in pieces)
    start = _first_shown(pieces)
    short = _cut(pieces, start, start + SHOWN_CHARACTERS)
    if start:
        question = pieces[:1] if start >= len(pieces[0].text) else ()
        short = (*_cut(question, 0, SHOWN_CHARACTERS), Piece("… "), *short)
    return Passage(short, _cut(pieces, 0, KEPT_CHARACTERS), characters)


def _first_shown(pieces: Sequence[Piece]) -> int:
    """Where to begin, so that the end of the first mark is to be seen, with some text before it."""
    at = 0
    for piece in pieces:
        if piece.tag:
            return max(0, at - BEFORE_A_MARK) if at + len(piece.text) > SHOWN_CHARACTERS else 0
        at += len(piece.text)
    return 0


def _cut(pieces: Sequence[Piece], start: int, end: int) -> tuple[Piece, ...]:
    kept, at = [], 0
    for piece in pieces:
        if text := piece.text[max(0, start - at) : max(0, end - at)]:
            kept.append(Piece(text, piece.tag))
        at += len(piece.text)
    return tuple(kept)
