"""What the checks look at, and what a task may offer them to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pefttune.data import Example, Row
from pefttune.tasks import Encoder, Task

TRAIN = "train"
PARTS = {TRAIN: "training", "validation": "validation", "test": "test"}
"""The parts of the data, those trained on first, and how their rows are called."""


@dataclass(frozen=True)
class Case:
    """A task, what it makes of the rows for a base with this tokenizer, and the rows, by part.

    `examples` are those of all rows of the part, or of none where the part is not there; an example tells by its origin
    which row it is of.
    """

    task: Task
    tokenizer: Any
    encoder: Encoder
    rows: Mapping[str, Sequence[Row]]
    examples: Mapping[str, Sequence[Example]]

    @property
    def train(self) -> Sequence[Example]:
        """What is trained on."""
        return self.examples[TRAIN]


@runtime_checkable
class Counts(Protocol):
    """A task whose rows hold something of each kind: a label, entities. Others have free answers."""

    def kinds(self, row: Row) -> Sequence[str]:
        """What is in the row, one for each."""


@runtime_checkable
class Aligns(Protocol):
    """An encoder whose answers are spans of the text, which can be no finer than its tokens."""

    def misaligned(self, row: Row) -> Sequence[str]:
        """The spans of the row that begin or end inside a token, so that no prediction can be exactly right."""


def text_of(value: Any) -> str:
    """The text in a column: itself, or that of the words or turns it is a list of. Numbers and pictures have none."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    return " ".join(filter(None, map(text_of, value))) if isinstance(value, list | tuple) else ""


def share(count: int, of: int) -> str:
    """`1,234 of 5,678`"""
    return f"{count:,} of {of:,}"
