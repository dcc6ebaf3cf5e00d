"""All that the doctor says of a recipe; `dataclasses.asdict` makes JSON of it."""

from __future__ import annotations

from dataclasses import dataclass

from pefttune.doctor.drawing import Shown
from pefttune.doctor.finding import LEVELS, Finding, Level
from pefttune.doctor.lengths import Lengths


@dataclass(frozen=True)
class Part:
    """One part of the data; `kinds` says how often each class is in it, None for a task of free answers."""

    rows: int
    kinds: dict[str, int] | None
    lengths: Lengths


@dataclass(frozen=True)
class Report:
    """A recipe's data as its base will read it, and what was found, the worst first."""

    name: str
    task: str
    base: str
    source: str
    max_length: int
    positions: int | None
    parts: dict[str, Part]
    shown: tuple[Shown, ...]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Level, int]:
        """How many findings there are of each level."""
        return {level: sum(finding.level == level for finding in self.findings) for level in LEVELS}

    @property
    def verdict(self) -> str:
        """The findings in a few words: `2 errors, 1 warning, 3 notes`."""
        told = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in self.counts.items() if count]
        return ", ".join(told) or "nothing to mend"

    @property
    def kinds(self) -> list[str]:
        """The classes that rows are counted by."""
        return list(next(iter(self.parts.values())).kinds or ())

    @property
    def length_rows(self) -> dict[str, list[str]]:
        """The table of lengths: heading → a cell for each part."""
        lengths = [part.lengths for part in self.parts.values()]
        return {
            "median": [f"{of.median:,}" for of in lengths],
            "90 % within": [f"{of.percentile_90:,}" for of in lengths],
            "99 % within": [f"{of.percentile_99:,}" for of in lengths],
            "longest": [f"{of.longest:,}" for of in lengths],
            "": [of.longest_row for of in lengths],
            "rows cut": [f"{of.cut_rows:,}" for of in lengths],
            "tokens lost": [f"{of.tokens_lost:,}" for of in lengths],
        }
