"""The straight line: begin, open the base, train, compare, prove, store. Start reading here: `run_together`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.pipeline.beginning import Line, begin, check_together
from pefttune.pipeline.comparing import REPORT, add_zero_shot, compare, report, score
from pefttune.pipeline.fitting import attach, fit
from pefttune.pipeline.parents import lineage_of
from pefttune.pipeline.proving import Trained, save
from pefttune.recipe import Recipe
from pefttune.recipe.adapters import Fusion

if TYPE_CHECKING:  # torch and its family take seconds to import, and bad data must be told before
    from pefttune.evaluation import Comparison
    from pefttune.inference import Session
    from pefttune.training import Notify, TrainingLog


@dataclass(frozen=True)
class Run:
    """What a run leaves: the stored adapter's folder and manifest, the comparison, the folder with log and report."""

    folder: Path
    manifest: dict[str, Any]
    comparison: Comparison
    run_folder: Path
    seconds: float

    @property
    def report(self) -> Path:
        """The page that tells of the run."""
        return self.run_folder / REPORT


def run(recipe: Recipe, notify: Notify = lambda event: None) -> Run:
    """Train the adapter of `recipe`, compare it with its base, prove that it was saved right, store it.

    `notify` gets every event of the run as a JSON-able dict. Raises a PefttuneError; the store is then as it was.
    """
    return run_together([recipe], notify)[0]


def run_together(recipes: Sequence[Recipe], notify: Notify = lambda event: None) -> list[Run]:
    """Train the adapters of several recipes on one resident base, in one forward and backward pass for all of them.

    Each has its own data, settings, evaluations and end, and (but for the chance in dropout) the gradients it would
    have alone. With several, each event says by `run` whose it is. Raises a PefttuneError, RecipeError for recipes that
    do not fit together; nothing is stored then.
    """
    started = time.perf_counter()
    check_together(recipes)
    lines = [begin(recipe, notify, named=len(recipes) > 1) for recipe in recipes]
    session, lines = _opened(lines)
    fitted = fit(session, lines)
    trained = [_compared(session, line, *each) for line, each in zip(lines, fitted, strict=True)]
    del session  # the proof needs room for a fresh base
    gc.collect()
    folders = save(trained)
    seconds = time.perf_counter() - started
    runs = []
    for one, folder in zip(trained, folders, strict=True):
        one.line.notify({"event": "stored", "name": one.line.name, "folder": str(folder), "seconds": seconds})
        runs.append(Run(folder, one.manifest, one.comparison, one.line.run_folder, seconds))
    return runs


def _opened(lines: Sequence[Line]) -> tuple[Session, list[Line]]:
    """A session on the recipes' base, with their new adapters in it, and the base itself, to be asked zero-shot; and
    the lines, with nothing left open in their recipes."""
    from pefttune import bases, publishing
    from pefttune.inference import Session

    recipe = lines[0].recipe
    base = bases.load(recipe.base)
    session = Session(base, recipe.training.max_batch_tokens)
    settled = []
    for line in lines:
        told = publishing.describe_base(base, line.recipe)
        line.notify({"event": "base", **told, "dtype_reason": base.dtype_reason, "dense": base.dense})
        add_zero_shot(session, line.task, line.recipe, line.notify)
        settled.append(attach(session, line))
    return session, settled


def _compared(session: Session, line: Line, log: TrainingLog, cost: dict[str, Any]) -> Trained:
    """The trained adapter beside its base, and all that its proof and its folder need, on the CPU."""
    from pefttune import evaluation, publishing

    ours, rows = session[line.name], line.rows
    adapter, others = score(session, line.name, line.recipe, rows.train, rows.test, line.notify)
    comparison = compare(ours.task, adapter, others, line.recipe, line.notify)
    how = "fusion" if isinstance(line.recipe.adapter, Fusion) else "warm_start"
    lineage = lineage_of(how, line.parents)
    manifest = publishing.describe(line.recipe, session.base, ours, rows.report, comparison, cost, lineage)
    state = ours.state()
    report(line.run_folder, evaluation.Findings(ours.task, log, comparison, adapter, others, manifest, state))
    manifest["probe"] = evaluation.take_probe(session, line.name, rows.test)
    return Trained(line, manifest, comparison, state, ours.peft_config())
