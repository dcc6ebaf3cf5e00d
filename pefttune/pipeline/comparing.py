"""The adapter beside its base, asked zero-shot, on the same test rows; and the report of it in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import tasks
from pefttune.data import Row
from pefttune.errors import BaseError, DataError, StorageError
from pefttune.pipeline.encoding import encode, flat, try_ragged
from pefttune.pipeline.telling import counter, tell
from pefttune.recipe import Recipe

if TYPE_CHECKING:
    from pefttune.evaluation import Comparison, Findings, Scored
    from pefttune.inference import Session
    from pefttune.training import Notify

REPORT = "report.html"


def add_zero_shot(session: Session, task: tasks.Task, recipe: Recipe, notify: Notify) -> None:
    """Put the base itself into the session, asked to do the task, where it can be: an encoder cannot.

    Raises BaseError or DataError where its tokenizer cannot serve; a task that asks in another form goes on without,
    after a notice.
    """
    asked = task.zero_shot()
    if not session.causal or asked is None:
        return
    try:
        session.add_zero_shot(recipe.output.name, task, recipe.data.max_length)
    except (BaseError, DataError) as error:
        if asked_alike(asked, task):
            raise
        tell(notify, f"the base is not asked zero-shot: {error}")


def asked_alike(asked: tasks.Task, task: tasks.Task) -> bool:
    """Whether a task is asked zero-shot by the prompt that it is trained on."""
    return getattr(asked, "approach", None) == getattr(task, "approach", None)


def score(
    session: Session, name: str, recipe: Recipe, train: Sequence[Row], test: Sequence[Row], notify: Notify
) -> tuple[Scored, list[Scored]]:
    """The adapter `name` of the session, and what it is compared with on the same test rows: its base if
    `add_zero_shot` has put that in, and the task's baseline, which knows the rows `train`."""
    from pefttune import evaluation
    from pefttune.inference import BASE_ITSELF

    task, others = session[name].task, []
    itself = f"{BASE_ITSELF}{recipe.output.name}"
    if itself in session.names:
        asked = [session[itself].encoder(row) for row in test]
        if session.collator.is_ragged(flat(asked)) is None:
            try_ragged(session, flat(asked), notify)
        others.append(scored(session, itself, "base, zero-shot", test, asked, notify))
    encoded = encoded_for(session, name, recipe, test, "test", notify)
    adapter = scored(session, name, "with adapter", test, encoded, notify)
    baseline, predictions = task.baseline(train, test)
    return adapter, [*others, evaluation.judge(baseline, task, test, predictions)]


def encoded_for(
    session: Session, name: str, recipe: Recipe, rows: Sequence[Row], what: str, notify: Notify
) -> list[tasks.Encoded]:
    """The examples of each row for that adapter; whether their batches can be ragged is found out and told."""
    encoded = encode(recipe, session.purpose(name).encoder, rows, what, notify)
    if session.collator.is_ragged(flat(encoded)) is None:
        try_ragged(session, flat(encoded), notify)
    return encoded


def scored(
    session: Session, adapter: str, told: str, rows: Sequence[Row], encoded: list[tasks.Encoded], notify: Notify
) -> Scored:
    """An adapter of the session on these rows, `told` as who it is."""
    from pefttune import evaluation

    progress = answering(session, adapter, told, encoded, notify)
    return evaluation.score(session, adapter, rows, encoded, progress, name=told)


def answering(
    session: Session, adapter: str, told: str, encoded: Sequence[tasks.Encoded], notify: Notify
) -> Callable[[int], None]:
    """Tells how many of these examples, or where answers are written of these rows, an adapter has done."""
    if session.purpose(adapter).task.generation is None:
        return counter(notify, "scoring", told, sum(map(len, encoded)))
    return counter(notify, "writing", told, len(encoded))


def compare(task: tasks.Task, adapter: Scored, others: Sequence[Scored], recipe: Recipe, notify: Notify) -> Comparison:
    """The adapter beside the others, as the recipe's `evaluation` section wants it."""
    from pefttune import evaluation

    settings = recipe.evaluation
    comparison = evaluation.compare(
        task, adapter, others, settings.bootstrap_samples, settings.confidence_level, recipe.seed
    )
    notify({"event": "comparison", **comparison.summary()})
    return comparison


def report(folder: Path, findings: Findings) -> None:
    """The comparison with its rows, the figure and the report, in the run folder. Raises StorageError."""
    from pefttune import evaluation

    log = findings.log
    illustrate(folder, findings.manifest["name"], findings.task, findings.comparison, log.steps, log.evaluations)
    with _store_untouched(folder):
        (folder / REPORT).write_text(evaluation.render_report(findings), encoding="utf-8")


def illustrate(
    folder: Path,
    name: str,
    task: tasks.Task,
    comparison: Comparison,
    steps: Sequence[dict[str, float]] = (),
    evaluations: Sequence[dict[str, Any]] = (),
) -> None:
    """The comparison with its rows and the figure, of a training if there were steps. Raises StorageError."""
    from pefttune import evaluation

    text = json.dumps(asdict(comparison), indent=1, ensure_ascii=False)
    with _store_untouched(folder):
        (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        evaluation.draw(folder / "figure.png", name, steps, evaluations, comparison, task.labels)


@contextmanager
def _store_untouched(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written to: {error.strerror or error}; the store is untouched"
        ) from None
