"""What a check says: how bad it is, what, in which rows, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
ROWS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, by the check of that name.

    An error would make training wrong without a word; a warning makes it worse or its figures doubtful; a note is worth
    knowing. `where` names the first few of `rows` rows, or pairs of rows.
    """

    check: str
    level: Level
    what: str
    mend: str = ""
    where: tuple[str, ...] = ()
    rows: int = 0

    def __str__(self) -> str:
        more = " …" if self.rows > len(self.where) else ""
        where = f" ({', '.join(self.where)}{more})" if self.where else ""
        return f"{self.what}{where}. {self.mend}".rstrip()


def found(check: str, level: Level, what: str, mend: str = "", where: Sequence[str] = ()) -> Finding:
    """A finding in the rows `where`, all of them: the first few are named, the others counted."""
    return Finding(check, level, what, mend, tuple(where[:ROWS_NAMED]), len(where))
