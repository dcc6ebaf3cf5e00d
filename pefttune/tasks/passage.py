"""A question and its passage as tokens, in windows where the passage is long; the same in training and at inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from pefttune.data import UNKNOWN, Example, Row
from pefttune.errors import BaseError, DataError
from pefttune.tasks.prompt import special_tokens_around, text_tokens
from pefttune.tasks.protocol import Encoded
from pefttune.tasks.tokenizing import tokenized

SEPARATOR = "\n"  # a decoder's tokenizer knows no pairs
Tokens = tuple[int, ...]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window(Example):
    """A question with a part of its passage.

    The first mark stands for “no answer”, each other one for a token of the passage. One mark is labelled: that at
    which the answer begins, with the number of marks from there to the one at which it ends. In a window without the
    answer that is the first mark, with 0; in one that cuts the answer none is.
    """

    first: int = field(kw_only=True)
    """The number, in the passage, of the token that the second mark stands for."""
    characters_M2: np.ndarray = field(kw_only=True, compare=False)
    """Where in the passage each marked token begins and ends."""


class PassageEncoder:
    """For an encoder, question and passage as its tokenizer pairs texts. A decoder's tokens see only what stands before
    them, so it reads the passage, the question, and the passage once more, whose tokens are marked; if it is
    `bidirectional`, the question and the passage."""

    def __init__(
        self, tokenizer: Any, max_length: int, stride: int, *, causal: bool, bidirectional: bool = False
    ) -> None:
        if not tokenizer.is_fast:
            raise BaseError(
                "this base's tokenizer does not tell where in a text its tokens stand, which question-answering has to "
                "know; a fast tokenizer of transformers does"
            )
        self._tokenizer, self._causal, self._stride = tokenizer, causal, stride
        self._before, self._between, self._after = _around(tokenizer, causal=causal)
        self._sees_all = causal and bidirectional
        self._copies = 2 if causal and not bidirectional else 1
        self._room = max_length - len(self._before) - self._copies * len(self._between) - len(self._after)
        self._longest_question = self._room // 4
        if self._size(self._longest_question) <= stride:
            raise DataError(
                f"task.stride: in windows of data.max_length = {max_length} tokens, of which the question may take "
                f"a quarter, an overlap of {stride} leaves no room for anything new; lower the one or raise the other"
            )

    def __call__(self, row: Row) -> Encoded:
        """The windows of the passage. Only a question that takes more than a quarter of one is cut, at its end."""
        question = text_tokens(self._tokenizer, row.values["question"])
        cut = len(question) > self._longest_question
        question = question[: self._longest_question]
        ids, place_K, characters_K2 = self._passage(row.values["context"])
        held = _held_by(row, characters_K2)
        windows = []
        for start, end in self._windows(len(ids), self._size(len(question))):
            lead = self._lead(question, ids[start:end])
            low, high = map(int, np.searchsorted(place_K, (start, end)))
            positions = [len(lead) - 1 if self._causal else 0, *(place_K[low:high] + (len(lead) - start)).tolist()]
            marks = [_unlabelled(position) for position in positions]
            if held is not None and (label := _label(held, range(low, high))):
                mark, target = label
                marks[mark] = (positions[mark], target)
            windows.append(
                Window(
                    prompt=(*lead, *ids[start:end], *self._after),
                    answers=(),
                    target=None,
                    origin=row.origin,
                    truncated=cut,
                    marks=tuple(marks),
                    sees_all=self._sees_all,
                    first=low,
                    characters_M2=characters_K2[low:high],
                )
            )
        return tuple(windows)

    def render(self) -> str:
        """Nothing: question and passage are read as they are."""
        return ""

    def misaligned(self, row: Row) -> list[str]:
        """The answers that begin or end inside a token (`pefttune.doctor.Aligns`)."""
        _, _, characters_K2 = self._passage(row.values["context"])
        starts, ends = (set(side.tolist()) for side in characters_K2.T)
        answers = row.values["answers"]
        places = zip(answers["text"], answers["answer_start"], strict=True)
        return [text for text, start in places if start not in starts or start + len(text) not in ends]

    def _passage(self, context: str) -> tuple[Tokens, np.ndarray, np.ndarray]:
        """Its tokens, and the places (K,) and characters (K, 2) of those that hold more than whitespace."""
        passage = tokenized(
            self._tokenizer,
            context,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,  # it would warn of a passage longer than a window
        )
        return tuple(passage["input_ids"]), *_not_blank(context, passage["offset_mapping"])

    def _size(self, question: int) -> int:
        """How many of the passage's tokens a window has beside a question of so many."""
        return (self._room - question) // self._copies

    def _windows(self, tokens: int, size: int) -> Iterator[tuple[int, int]]:
        start = 0
        while start + size < tokens:
            yield start, start + size
            start += size - self._stride
        yield start, tokens

    def _lead(self, question: Tokens, part: Tokens) -> Tokens:
        """All that stands before the marked tokens."""
        once = (*part, *self._between) if self._copies > 1 else ()
        return (*self._before, *once, *question, *self._between)


def _around(tokenizer: Any, *, causal: bool) -> tuple[Tokens, Tokens, Tokens]:
    """What stands before, between and after question and passage."""
    before, after = special_tokens_around(tokenizer)
    if causal:
        return before, text_tokens(tokenizer, SEPARATOR), after
    pair = tokenized(tokenizer, "a", "a")["input_ids"]
    one = tokenized(tokenizer, "a", add_special_tokens=False)["input_ids"]
    between = pair[len(before) + len(one) : len(pair) - len(one) - len(after)]
    return before, tuple(between), after


def _not_blank(passage: str, offsets: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """The places (K,) of the tokens that hold more than whitespace, and (K, 2) where what they hold begins and ends."""
    places, spans = [], []
    for place, (start, end) in enumerate(offsets):
        held = passage[start:end]
        if inner := held.strip():
            start += len(held) - len(held.lstrip())
            places.append(place)
            spans.append((start, start + len(inner)))
    return np.array(places, np.int32), np.array(spans, np.int32).reshape(-1, 2)


@cache
def _unlabelled(position: int) -> tuple[int, int]:
    """The mark that all windows share: in a large data set, one of its own for each token is gigabytes."""
    return position, UNKNOWN


def _held_by(row: Row, characters_K2: np.ndarray) -> range | None:
    """The tokens that hold the first answer, none where there is no answer; None where that is not known."""
    answers = row.values.get("answers")
    if answers is None:
        return None
    if not answers["text"]:
        return range(0)
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    holding = np.flatnonzero((characters_K2[:, 1] > start) & (characters_K2[:, 0] < end))
    return range(int(holding[0]), int(holding[-1]) + 1) if holding.size else None


def _label(held: range, window: range) -> tuple[int, int] | None:
    """The mark that is labelled and its class, as `Window` has it."""
    inside = range(max(held.start, window.start), min(held.stop, window.stop))
    if not inside:
        return 0, 0
    return (1 + held.start - window.start, len(held) - 1) if inside == held else None
