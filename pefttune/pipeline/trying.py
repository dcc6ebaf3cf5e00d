"""Trainings that are only to be compared: judged on validation rows, proved and stored by nobody.

Of the straight line they are `attach` and `fit`. Test rows are taken away before, so that none can be looked at.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pefttune import tasks
from pefttune.data import Dataset
from pefttune.errors import DataError, InputError, TrainingError
from pefttune.pipeline.beginning import Line, read_data, with_parents
from pefttune.pipeline.fitting import attach, fit
from pefttune.recipe import Recipe

if TYPE_CHECKING:
    from pefttune.inference import Session
    from pefttune.training import Notify, TrainingLog


@dataclass(frozen=True)
class Tried:
    """What came of a training: the metric of the weights that it would keep, and what it cost."""

    metric: float
    parameters: int
    steps: int
    seconds: float
    """Of the optimizer steps, of all that shared their passes through the base, like `peak_mib`."""
    peak_mib: float
    together: int
    """How many shared them, itself among them."""


@dataclass(frozen=True)
class Failed:
    """Why there is nothing to compare."""

    reason: str


class Bench:
    """Trains recipes to compare them, on one resident base at a time. Those on the same base share their passes through
    it where their methods can, unless each is to be trained `apart`."""

    def __init__(self, *, apart: bool = False) -> None:
        self._apart = apart
        self._notify: Notify = lambda event: None
        self._data: dict[str, tuple[tasks.Task, Dataset]] = {}
        self._session: Session | None = None
        self._recipe: Recipe | None = None
        """The one by which the session's base was loaded."""

    def read(self, recipe: Recipe) -> tuple[tasks.Task, Dataset]:
        """Task and rows, none of them to test by. Raises DataError."""
        key = recipe.task.model_dump_json() + recipe.data.model_dump_json()
        if key not in self._data:
            task, rows = read_data(recipe)
            self._data[key] = task, replace(rows, test=())
        return self._data[key]

    def train(self, recipes: Sequence[Recipe], notify: Notify) -> Iterator[dict[str, Tried | Failed]]:
        """By the name of the adapter, what came of those that were trained together, each time some are done.

        `notify` gets their events, which say by `run` whose they are. Raises a PefttuneError for what is not the fault
        of one of them, such as a disk without room.
        """
        self._notify = notify
        for together in self._passes(recipes):
            yield self._tried(together)

    def _passes(self, recipes: Sequence[Recipe]) -> list[list[Recipe]]:
        """The recipes that can be trained together, side by side; base after base, the one that is loaded first."""
        from pefttune import methods

        groups: dict[tuple[object, ...], list[Recipe]] = {}
        for recipe in recipes:
            base, mixes = recipe.base.model_dump_json(), methods.METHODS[recipe.adapter.method].mixes
            alone = recipe.output.name if self._apart or not mixes else ""
            groups.setdefault((base, recipe.training.max_batch_tokens, alone), []).append(recipe)
        resident = self._recipe.base.model_dump_json() if self._recipe else ""
        bases = list(dict.fromkeys([resident, *(key[0] for key in groups)]))
        return [groups[key] for key in sorted(groups, key=lambda key: bases.index(key[0]))]

    def _tried(self, recipes: Sequence[Recipe]) -> dict[str, Tried | Failed]:
        """Where one of several fails, those of the other half are trained without it."""
        try:
            return self._fitted(self._resident(recipes[0]), recipes)
        except (InputError, TrainingError, MemoryError, RuntimeError) as error:
            reason = _reason(error)
        no_base, self._session = self._session is None, None  # whatever the error left on it
        if no_base or len(recipes) == 1:
            return {recipe.output.name: Failed(reason) for recipe in recipes}
        half = len(recipes) // 2
        return self._tried(recipes[:half]) | self._tried(recipes[half:])

    def _resident(self, recipe: Recipe) -> Session:
        """The session on the recipe's base, loaded if another one is."""
        from pefttune import bases, publishing
        from pefttune.inference import Session

        last, self._recipe = self._recipe, recipe
        tokens = recipe.training.max_batch_tokens
        if self._session is None or last is None or last.base != recipe.base:
            self._session = None
            gc.collect()  # two bases may not find room side by side
            base = bases.load(recipe.base)
            told = publishing.describe_base(base, recipe)
            self._notify({"event": "base", **told, "dtype_reason": base.dtype_reason, "dense": base.dense})
            self._session = Session(base, tokens)
        elif last.training.max_batch_tokens != tokens:
            self._session = Session(self._session.base, tokens)
        return self._session

    def _fitted(self, session: Session, recipes: Sequence[Recipe]) -> dict[str, Tried | Failed]:
        from pefttune.bases.machine import keep_freed_memory

        gc.collect()
        keep_freed_memory()  # what trainings before left would count as memory of this one
        with TemporaryDirectory() as folder:
            lines = [self._line(recipe, Path(folder)) for recipe in recipes]
            try:
                lines = [attach(session, line) for line in lines]
                fitted = fit(session, lines)
                return {
                    line.name: _judged(session, line, log, cost, len(lines))
                    for line, (log, cost) in zip(lines, fitted, strict=True)
                }
            finally:
                for line in lines:
                    if line.name in session.names:
                        session.remove(line.name)

    def _line(self, recipe: Recipe, folder: Path) -> Line:
        task, rows = self.read(recipe)
        recipe, parents = with_parents(recipe)
        name = recipe.output.name
        (folder / name).mkdir()
        return Line(recipe, task, rows, folder / name, lambda event: self._notify({**event, "run": name}), parents)


def _judged(session: Session, line: Line, log: TrainingLog, cost: dict[str, Any], together: int) -> Tried | Failed:
    kept = next(record for record in log.evaluations if record["step"] == log.best_step)
    metric = kept[line.task.watched]
    if not math.isfinite(metric):
        return Failed(f"its {line.task.watched} on the validation rows is {metric}")
    parameters = sum(parameter.numel() for parameter in session[line.name].parameters.values())
    seconds = sum(record["seconds"] for record in log.steps)
    return Tried(metric, parameters, cost["steps"], seconds, cost["memory"]["peak_mib"], together)


def _reason(error: Exception) -> str:
    """What is told of a training that failed; any other error is raised again."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "memory was not enough; a smaller training.max_batch_tokens needs less"
    if isinstance(error, RuntimeError):
        raise error
    return str(error)


def check_comparable(bench: Bench, recipes: Sequence[Recipe]) -> tuple[str, int]:
    """The metric by which the recipes are compared, and on how many validation rows. Raises DataError unless they are
    the same for all."""
    found = {}
    for recipe in recipes:
        task, rows = bench.read(recipe)
        found[task.watched, rows.report.fingerprints["validation"]] = (task.watched, len(rows.validation))
    if len(found) > 1:
        told = " and ".join(f"{metric} on {count:,} rows" for metric, count in found.values())
        raise DataError(
            f"the trials would be judged differently, by {told}, which cannot be compared: vary no key of `task` or "
            "`data` that changes validation rows or metric"
        )
    return next(iter(found.values()))
