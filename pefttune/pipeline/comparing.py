"""The adapter beside its base, asked zero-shot, on the same test rows; and the report of it in the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pefttune import tasks
from pefttune.data import Row
from pefttune.errors import StorageError
from pefttune.pipeline.beginning import Line
from pefttune.pipeline.encoding import encode, flat, try_ragged
from pefttune.pipeline.telling import counter
from pefttune.recipe import Recipe

if TYPE_CHECKING:
    from pefttune.evaluation import Comparison, Scored
    from pefttune.inference import Session
    from pefttune.training import Notify, TrainingLog


def add_zero_shot(session: Session, task: tasks.Task, recipe: Recipe) -> None:
    """Put the base itself into the session, asked to do the task, where it can be: an encoder cannot. Raises BaseError
    or DataError where its tokenizer cannot serve."""
    if session.causal and task.zero_shot() is not None:
        session.add_zero_shot(recipe.output.name, task, recipe.data.max_length)


def compare(
    session: Session, name: str, recipe: Recipe, train: Sequence[Row], test: Sequence[Row], notify: Notify
) -> Comparison:
    """The adapter `name` of the session, its base if `add_zero_shot` has put that in, and the task's baseline, which
    knows the rows `train`, on the same test rows."""
    from pefttune import evaluation
    from pefttune.inference import BASE_ITSELF

    def scored(adapter: str, told: str, encoded: list[tasks.Encoded]) -> Scored:
        if session[adapter].task.generation is None:
            progress = counter(notify, "scoring", told, sum(map(len, encoded)))
        else:
            progress = counter(notify, "writing", told, len(encoded))
        return evaluation.score(session, adapter, test, encoded, progress, name=told)

    task, others = session[name].task, []
    itself = f"{BASE_ITSELF}{recipe.output.name}"
    if itself in session.names:
        asked = [session[itself].encoder(row) for row in test]
        if session.ragged is None:
            try_ragged(session, flat(asked), notify)
        others.append(scored(itself, "base, zero-shot", asked))
    encoded = encode(recipe, session[name].encoder, test, "test", notify)
    if session.ragged is None:
        try_ragged(session, flat(encoded), notify)
    adapter = scored(name, "with adapter", encoded)
    baseline, predictions = task.baseline(train, test)
    others.append(evaluation.judge(baseline, task, test, predictions))
    settings = recipe.evaluation
    comparison = evaluation.compare(
        task, adapter, others, settings.bootstrap_samples, settings.confidence_level, recipe.seed
    )
    notify({"event": "comparison", **comparison.summary()})
    return comparison


def report(line: Line, log: TrainingLog, comparison: Comparison, labels: Sequence[str]) -> None:
    """The comparison with its rows, and the figure, in the run folder. Raises StorageError."""
    from pefttune import evaluation

    text = json.dumps(asdict(comparison), indent=1, ensure_ascii=False)
    try:
        (line.run_folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        evaluation.draw(line.run_folder / "figure.png", line.name, log.steps, log.evaluations, comparison, labels)
    except OSError as error:
        raise StorageError(
            f"{line.run_folder} cannot be written to: {error.strerror or error}; the store is untouched"
        ) from None
