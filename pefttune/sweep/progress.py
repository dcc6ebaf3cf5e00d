"""How far a whole sweep is, told while its trials are trained."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pefttune.pipeline import Tried
from pefttune.sweep.halving import Rung, rungs
from pefttune.sweep.trial import Trial

if TYPE_CHECKING:
    from pefttune.training import Notify

SHOWN = ("base", "frozen")


class Progress:
    """Takes the events of trainings. Passes on what is worth seeing among many of them, each notice once, and tells by
    `sweep` how much is done, in whole trainings, and how many examples are read a second."""

    def __init__(self, sizes: Sequence[int], metric: str, notify: Notify) -> None:
        self._metric, self._notify = metric, notify
        self._of = float(sum(rung.share * rung.trials for size in sizes for rung in rungs(size)))
        self._done = 0.0
        self._under_way: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._notices: set[str] = set()
        self._rung = Rung(Fraction(1), 0)

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of a training."""
        kind = event["event"]
        if kind == "step":
            self._under_way[event["run"]] = event["step"] / event["of"]
            self._rates[event["run"]] = event["examples"] / event["seconds"]
            self._tell()
        elif kind in SHOWN:
            self._notify({key: value for key, value in event.items() if key != "run"})
        elif kind == "notice" and event["message"] not in self._notices:
            self._notices.add(event["message"])
            self._notify({"event": kind, "message": event["message"]})

    def begin(self, rung: Rung, trials: int) -> None:
        """The trials of a rung are trained; fewer than it could have, where others have failed."""
        self._rung = Rung(rung.share, trials)
        self._done += float(rung.share * (rung.trials - trials))
        self._tell()

    def over(self, trials: Sequence[Trial]) -> None:
        """The last results of these trials are there."""
        for trial in trials:
            self._under_way.pop(trial.name, None)
            self._rates.pop(trial.name, None)
            self._done += float(trial.share)
            told = {"trial": trial.number, "settings": str(trial.variant), "share": str(trial.share)}
            last = trial.last
            if isinstance(last, Tried):
                result: dict[str, Any] = {"watched": self._metric, self._metric: last.metric}
            else:
                result = {"failed": last.reason}
            self._notify({"event": "trial", **told, **result})
        self._tell()

    def _tell(self) -> None:
        now = self._done + float(self._rung.share) * sum(self._under_way.values())
        rate = sum(self._rates.values())
        told = {"trials": self._rung.trials, "share": str(self._rung.share), "examples_a_second": rate}
        self._notify({"event": "sweep", "done": now, "of": self._of, **told})
