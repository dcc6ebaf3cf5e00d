"""A sentence's words as tokens, in windows where they are too many; the same in training and at inference."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import regex

from pefttune.data import UNKNOWN, Example, Row
from pefttune.errors import BaseError, DataError
from pefttune.tasks.prompt import special_tokens_around, text_tokens
from pefttune.tasks.protocol import Encoded
from pefttune.tasks.tags import classes_of, spans
from pefttune.tasks.tokenizing import tokenized

SEPARATOR = "\n"
_LETTERS = r"[\p{L}\p{M}\p{N}_]+"
_WORD = regex.compile(
    r"https?://\S*[\p{L}\p{N}_/]"
    rf"|[@#]{_LETTERS}"
    r"|(?:\p{L}\.){2,}"  # U.S.
    rf"|{_LETTERS}(?:[-.&]{_LETTERS})*"
    r"|['’]\p{L}+"  # the 's of John's
    r"|\.{2,}"
    r"|(?!\s)\X"
)


def split(text: str) -> list[tuple[int, int]]:
    """Where the words of a plain text begin and end, much as annotators of named entities part them: by spaces and
    punctuation. The same for every base."""
    return [match.span() for match in _WORD.finditer(text)]


def joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The words as a text, a space between, and where in it each begins and ends."""
    starts = accumulate((len(word) + 1 for word in words[:-1]), initial=0)
    return " ".join(words), [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]


@dataclass(frozen=True, slots=True)
class Window(Example):
    """A part of a sentence. Every word has its mark in one window only, the one in which it has most around it."""

    words: tuple[int, ...] = field(kw_only=True)
    """The word that each mark stands for. A window without words has one mark, for nothing."""


class WordEncoder:
    """Words with a space between, read as one text; by a decoder, whose tokens see only what stands before them, twice,
    and the second copy is marked. A word is read off its first token by an encoder, and off its last
    one by a decoder, which alone has seen all of it. A `bidirectional` decoder reads as an encoder does."""

    def __init__(
        self,
        tokenizer: Any,
        kinds: Sequence[str],
        max_length: int,
        stride: int,
        *,
        causal: bool,
        bidirectional: bool = False,
    ) -> None:
        if not tokenizer.is_fast:
            raise BaseError(
                "this base's tokenizer does not tell where in a text its tokens stand, which token-classification has "
                "to know; a fast tokenizer of transformers does"
            )
        self._tokenizer, self._stride = tokenizer, stride
        self._sees_all = causal and bidirectional
        self._twice = causal and not bidirectional
        self._classes = {tag: index for index, tag in enumerate(classes_of(kinds))}
        self._before, self._after = special_tokens_around(tokenizer)
        self._between = text_tokens(tokenizer, SEPARATOR) if self._twice else ()
        self._room = max_length - len(self._before) - len(self._after)
        if self._twice:
            self._room = (self._room - len(self._between)) // 2
        if self._room <= stride:
            raise DataError(
                f"task.stride: in windows of data.max_length = {max_length} tokens, an overlap of {stride} leaves no "
                "room for anything new; lower the one or raise the other"
            )

    def __call__(self, row: Row) -> Encoded:
        """The windows of the sentence; nothing is cut off."""
        words, tags = row.values["tokens"], row.values.get("tags")
        ids, read_at = self._tokens(words)
        windows = []
        for window, own in self._windows(len(ids)):
            part = ids[window.start : window.stop]
            lead = (*self._before, *part, *self._between) if self._twice else self._before
            inside = [word for word, place in read_at.items() if place in own]
            classes = [UNKNOWN if tags is None else self._classes[tags[word]] for word in inside]
            places = [len(lead) + read_at[word] - window.start for word in inside]
            windows.append(
                Window(
                    prompt=(*lead, *part, *self._after),
                    answers=(),
                    target=None,
                    origin=row.origin,
                    marks=tuple(zip(places, classes, strict=True)) or ((0, UNKNOWN),),
                    sees_all=self._sees_all,
                    words=tuple(inside),
                )
            )
        return tuple(windows)

    def render(self) -> str:
        """Nothing: the words are read as they are."""
        return ""

    def misaligned(self, row: Row) -> list[str]:
        """The entities with a word that has no token to be read off: its tag is taken to be O
        (`pefttune.doctor.Aligns`)."""
        words = row.values["tokens"]
        _, read_at = self._tokens(words)
        lost = [span for span in spans(row.values["tags"]) if not read_at.keys() >= set(range(span.first, span.end))]
        return [" ".join(words[span.first : span.end]) for span in lost]

    def _tokens(self, words: Sequence[str]) -> tuple[tuple[int, ...], dict[int, int]]:
        """The tokens of the words, and the place of the one that each word is read off. Some words have none."""
        text, places = joined(words)
        how = {"split_special_tokens": True, "return_offsets_mapping": True}
        tokens = tokenized(self._tokenizer, text, add_special_tokens=False, **how)
        starts = [start for start, _ in places]
        read_at: dict[int, int] = {}
        for place, (start, end) in enumerate(tokens["offset_mapping"]):
            word = bisect_right(starts, end - 1) - 1  # a token may begin with the space before its word
            if start < end <= places[word][1] and (self._twice or word not in read_at):
                read_at[word] = place
        return tuple(tokens["input_ids"]) or (0,), read_at

    def _windows(self, tokens: int) -> Iterator[tuple[range, range]]:
        """Each window, and its own part of it: where they overlap, each has the half that is farther from its end."""
        last = max(tokens - self._room, 0)
        starts = [*range(0, last, self._room - self._stride), last]
        windows = [range(start, min(start + self._room, tokens)) for start in starts]
        middles = [(after.start + before.stop) // 2 for before, after in pairwise(windows)]
        for window, own in zip(windows, pairwise([0, *middles, tokens]), strict=True):
            yield window, range(*own)
