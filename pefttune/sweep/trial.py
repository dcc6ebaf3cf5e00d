"""One trial of a sweep, and the file that keeps what came of each, so that a sweep that was stopped can go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from pefttune.data.storage import replacing, storage_errors
from pefttune.errors import InputError
from pefttune.pipeline import Failed, Tried
from pefttune.recipe import Variant

Key = tuple[tuple[tuple[str, str], ...], Fraction]


@dataclass
class Trial:
    """A variant of the recipe, with what came of it by the share of its own steps, the smallest first."""

    number: int
    variant: Variant
    results: dict[Fraction, Tried | Failed] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What events and errors call it."""
        return f"trial-{self.number}"

    @property
    def share(self) -> Fraction:
        """That of its longest training."""
        return next(reversed(self.results))

    @property
    def last(self) -> Tried | Failed:
        """What came of that."""
        return self.results[self.share]

    @property
    def place(self) -> tuple[Any, ...]:
        """Sorts trials, the best first: who came further; then who is better, smaller, earlier; then who failed."""
        last = self.last
        if isinstance(last, Failed):
            return True, self.number
        return False, -self.share, -last.metric, last.parameters, self.number

    @property
    def shared(self) -> bool:
        """Whether it was ever trained together with others, so that its costs are not its own."""
        return any(isinstance(one, Tried) and one.together > 1 for one in self.results.values())

    @property
    def seconds(self) -> float:
        """Of all its trainings; of those together with others, an equal share."""
        return sum(one.seconds / one.together for one in self.results.values() if isinstance(one, Tried))

    def told(self) -> dict[str, Any]:
        """As JSON can hold it."""
        own = {"trial": self.number, "settings": dict(self.variant.settings)}
        return own | {"rungs": [{"share": str(share), **asdict(one)} for share, one in self.results.items()]}


class Records:
    """Results by settings and share of the steps, in a file of JSON lines that is whole at any time."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError when the file cannot be written, InputError when it holds something else."""
        self._path = path
        self._known: dict[Key, Tried | Failed] = {}
        if path.exists():
            with storage_errors(path):
                text = path.read_text(encoding="utf-8")
            for number, line in enumerate(text.splitlines(), start=1):
                try:
                    self._read(json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError):
                    raise InputError(
                        f"{path}:{number} is no result of a sweep; remove {path.parent} to begin anew"
                    ) from None
        self._write()

    def _read(self, record: dict[str, Any]) -> None:
        key = _key(record.pop("settings"), record.pop("share"))
        self._known[key] = Failed(**record) if "reason" in record else Tried(**record)

    def _write(self) -> None:
        with replacing(self._path) as file:
            for (settings, share), result in self._known.items():
                record = {"settings": dict(settings), "share": str(share), **asdict(result)}
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def find(self, variant: Variant, share: Fraction) -> Tried | Failed | None:
        """What came of it before, if it is known."""
        return self._known.get(_key(variant.settings, share))

    def keep(self, trials: Sequence[Trial]) -> None:
        """Write down the last result of each. Raises StorageError."""
        for trial in trials:
            self._known[_key(trial.variant.settings, trial.share)] = trial.last
        self._write()


def _key(settings: Any, share: Any) -> Key:
    return tuple(settings.items()), Fraction(share)
