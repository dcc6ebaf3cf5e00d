"""Which class is taken for which: a table where it can be read, and always the pairs that are confused most often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_IN_A_TABLE = 20
MOST_IN_A_MAP = 120
MOST_PAIRS = 15


@dataclass(frozen=True)
class Cell:
    """How many rows of the true class (row i) were predicted as another or the same (column j)."""

    i: int
    j: int
    count: int
    share: float
    """Of the rows of the true class."""


@dataclass(frozen=True)
class Confusion:
    """The confusion of somebody called `name` over `labels`."""

    name: str
    labels: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def as_table(self) -> bool:
        """Whether a table of it can be read."""
        return len(self.labels) <= MOST_IN_A_TABLE

    @property
    def as_map(self) -> bool:
        """Whether it wants to be drawn as a map of coloured squares."""
        return MOST_IN_A_TABLE < len(self.labels) <= MOST_IN_A_MAP

    @property
    def filled(self) -> list[Cell]:
        """The cells that hold a row."""
        return [cell for row in self.cells for cell in row if cell.count]

    @property
    def pairs(self) -> list[Cell]:
        """The pairs of classes confused most often, the worst first."""
        wrong = [cell for cell in self.filled if cell.i != cell.j]
        return sorted(wrong, key=lambda cell: (-cell.count, -cell.share, cell.i, cell.j))[:MOST_PAIRS]


def confusion(name: str, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Confusion:
    """From counts by true class (rows) and predicted class (columns)."""
    cells = tuple(
        tuple(Cell(i, j, count, count / max(1, sum(row))) for j, count in enumerate(row))
        for i, row in enumerate(matrix)
    )
    return Confusion(name, tuple(labels), cells)
