"""The row a reader yields and the example a task makes of it: what every room above speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = -100
"""The target that is not known: what cross-entropy passes over."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of data: its columns, and where it stands (`reviews.csv:17`) for messages."""

    values: Mapping[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens.

    `prompt` is read by the base. Each of `answers` is a candidate continuation of the prompt, `target` the index of the
    right one, None where it is not known. For a head there are `marks` instead: positions of the prompt that the head
    reads (the last, the first, every one), each with its right class or number, -100 where it is not known. Without a
    head, marks are positions of the prompt at which the next token is learned besides the answer, each with that token.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    target: int | None
    origin: str
    truncated: bool = False
    marks: tuple[tuple[int, float], ...] = ()
    answer_limit: str = ""
    """The key of the recipe whose limit cut the right answer; empty where it is whole. `truncated` is of the prompt."""
    sees_all: bool = False
    """Whether a decoder is told to let each token of the prompt see those that follow it, too. All examples of an
    adapter are alike in this."""

    def __len__(self) -> int:
        """Tokens of the prompt and its longest answer."""
        return len(self.prompt) + max((len(answer) for answer in self.answers), default=0)
