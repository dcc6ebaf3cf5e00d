"""Tags of words, and the entities they stand for.

Read are IOB1, IOB2 and BILOU, which is BIOES by other letters (Ratinov & Roth 2009); made of them and predicted is
IOB2: `B-` begins an entity, `I-` goes on with it. Shapes: W words; C classes, those of `classes_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened

if TYPE_CHECKING:
    import numpy as np

OUTSIDE = "O"
_TAG = re.compile(r"([BILUES])-(\S.*)|O")


class Span(NamedTuple):
    """An entity: its kind, its first word, and the one behind its last."""

    kind: str
    first: int
    end: int


def classes_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """The 2K+1 tags of K kinds, in the order of a head's classes: O, B-…, I-…, B-…, I-…"""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))


def as_iob2(tags: Sequence[Any]) -> list[str]:
    """A sentence's tags, of whichever scheme, in IOB2. Raises RowFault for one that is broken.

    Nothing has to say whether they are IOB1 or IOB2, for no sequence means two things: `I-` goes on with what the word
    before it is in, and begins an entity where that is nothing or of another kind (as conlleval has it). Where one tag
    is of BILOU, all are held to its rules.
    """
    read = [_parts(number, tag) for number, tag in enumerate(tags, start=1)]
    bilou = any(prefix in "LUES" for prefix, _ in read)
    result, inside = [], ""
    for number, (prefix, kind) in enumerate(read, start=1):
        goes_on = prefix in "ILE" and kind == inside
        if bilou and inside and not goes_on:
            raise _endless(inside, number - 1)
        if bilou and not inside and prefix in "ILE":
            raise RowFault("tags", f"word {number} has the tag {tags[number - 1]!r}, but no {kind} has begun before it")
        result.append(f"{'I' if goes_on else 'B'}-{kind}" if kind else OUTSIDE)
        inside = kind if prefix in "BI" else ""
    if bilou and inside:
        raise _endless(inside, len(tags))
    return result


def spans(tags: Sequence[str]) -> Iterator[Span]:
    """The entities of a sentence in IOB2, in order."""
    first = 0
    for word, tag in enumerate(tags):
        if tag.startswith("B-"):
            first = word
        goes_on = word + 1 < len(tags) and tags[word + 1].startswith("I-")
        if tag != OUTSIDE and not goes_on:
            yield Span(tag[2:], first, word + 1)


def likeliest(chances_WC: np.ndarray) -> np.ndarray:
    """The classes (W,) of the sequence that is likeliest by these log-probabilities among those that IOB2 allows:
    `I-` only behind `B-` or `I-` of its kind. Exact (Viterbi 1967)."""
    import numpy as np

    n = chances_WC.shape[1]
    behind_CC = np.zeros((n, n))
    starts, goes_on = np.arange(1, n, 2), np.arange(2, n, 2)
    behind_CC[:, goes_on] = -np.inf
    behind_CC[starts, goes_on] = behind_CC[goes_on, goes_on] = 0
    best_C = chances_WC[0] + behind_CC[0]  # a sentence begins as if behind O
    came_WC = np.zeros(chances_WC.shape, int)
    for word in range(1, len(chances_WC)):
        through_CC = best_C[:, None] + behind_CC
        came_WC[word] = through_CC.argmax(0)
        best_C = through_CC.max(0) + chances_WC[word]
    path = [int(best_C.argmax())]
    for came_C in came_WC[:0:-1]:
        path.append(int(came_C[path[-1]]))
    return np.array(path[::-1])


def _parts(number: int, tag: Any) -> tuple[str, str]:
    """Prefix and kind of a tag; that of O is empty."""
    match = _TAG.fullmatch(tag.strip()) if isinstance(tag, str) else None
    if match is None:
        known = "O, or B-, I-, L-, U-, E- or S- and a kind"
        raise RowFault("tags", f"word {number} has the tag {shortened(tag)}; a tag is {known}")
    return match[1] or OUTSIDE, match[2] or ""


def _endless(kind: str, number: int) -> RowFault:
    return RowFault("tags", f"the {kind} that word {number} is in has no end, which L- or E- would be")
