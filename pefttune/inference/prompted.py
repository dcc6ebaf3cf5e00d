"""Examples that begin with the virtual tokens of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from pefttune import tasks
from pefttune.data import Example, Row


class PromptedEncoder:
    """An encoder of a task, whose examples then begin with these ids, beyond the base's vocabulary."""

    def __init__(self, plain: tasks.Encoder, virtual_ids: tuple[int, ...]) -> None:
        self.plain, self._virtual_ids = plain, virtual_ids

    def __call__(self, row: Row) -> tasks.Encoded:
        """The examples of a row, their marks moved."""
        n = len(self._virtual_ids)
        return tuple(
            replace(
                example,
                prompt=(*self._virtual_ids, *example.prompt),
                marks=tuple(_moved(position, target, n) for position, target in example.marks),
            )
            for example in self.plain(row)
        )

    def render(self) -> str:
        """The prompt in words."""
        return self.plain.render()

    def without(self, examples: Sequence[Example]) -> list[Example]:
        """The examples as the plain encoder made them."""
        n = len(self._virtual_ids)
        return [
            replace(
                example,
                prompt=example.prompt[n:],
                marks=tuple(_moved(position, target, -n) for position, target in example.marks),
            )
            for example in examples
        ]


@cache
def _moved(position: int, target: float, by: int) -> tuple[int, float]:
    """A mark that all windows share: in a large data set, one of its own for each token is gigabytes."""
    return position + by, target
