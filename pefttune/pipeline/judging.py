"""One base of a probe: loaded, shown the sample, judged; then the adapters on it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pefttune import store, tasks
from pefttune.data import Dataset, Row
from pefttune.doctor.case import PARTS, text_of
from pefttune.doctor.classes import classes_in
from pefttune.pipeline.comparing import add_zero_shot
from pefttune.pipeline.encoding import encode
from pefttune.pipeline.telling import counter, tell
from pefttune.recipe import Recipe, schema

if TYPE_CHECKING:
    from pefttune.evaluation.transfer import BaseFound, Sample, SourceFound
    from pefttune.inference import Session
    from pefttune.training import Notify

# Nats a token by which order helps a base; below, a token is not even exp(0.5) = 1.6 times likelier where it stands.
LITTLE_ORDER = 0.5


def judge_base(
    recipe: Recipe, section: schema.Base, task: tasks.Task, rows: Sequence[Row], training_rows: int, notify: Notify
) -> tuple[Session, Sample, BaseFound]:
    """A session on the base, the sample as the base reads it, and what it makes of it."""
    from pefttune import bases
    from pefttune.evaluation import transfer
    from pefttune.inference import Session

    cpu = time.process_time()
    session = Session(bases.load(section), recipe.training.max_batch_tokens)
    recipe = _within(session, recipe, notify)
    if task.labels:
        sample = _encoded(session, recipe, task, rows, notify)
        found = _by_labels(session, recipe, section, sample, training_rows, notify)
    else:
        sample = transfer.Sample(task, tuple(rows), ())
        examples = transfer.asked(session, task, recipe.data.max_length, rows)
        told = counter(notify, "scoring", f"answers, {section.source}", len(examples))
        answers = transfer.score_answers(session, examples, told)
        found = transfer.BaseFound(section.source, "written answers", answers=answers)
    texts = [" ".join(text_of(row.values[column]) for column in task.inputs) for row in rows]
    loss = transfer.text_loss(session, texts, recipe.seed)
    return session, sample, dataclasses.replace(found, text_loss=loss, cpu_seconds=time.process_time() - cpu)


def _within(session: Session, recipe: Recipe, notify: Notify) -> Recipe:
    """The recipe with no longer texts than the base reads: another base than the recipe's may have fewer positions."""
    from pefttune.inference.lengths import positions_of

    positions = positions_of(session.base.model)
    if positions is None or positions >= recipe.data.max_length:
        return recipe
    tell(notify, f"{session.base.located.origin} reads {positions} tokens at most: texts are cut there")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": positions})})


def _encoded(session: Session, recipe: Recipe, task: tasks.Task, rows: Sequence[Row], notify: Notify) -> Sample:
    """The rows as the base reads them: with the recipe's prompt, or bare for a head where the base writes no words."""
    from pefttune.evaluation import transfer

    if isinstance(task, tasks.TextClassification) and not session.causal:
        task = dataclasses.replace(task, approach="head")
    encoded = encode(recipe, session.encoder(task, recipe.data.max_length), rows, "sampled", notify)
    return transfer.Sample(task, tuple(rows), tuple(encoded))


def _by_labels(
    session: Session, recipe: Recipe, section: schema.Base, sample: Sample, training_rows: int, notify: Notify
) -> BaseFound:
    from pefttune.evaluation import transfer
    from pefttune.inference import views_of

    read = counter(notify, "frozen", f"sampled, {section.source}", len(sample.examples))
    views = views_of(session, sample.examples, lambda message: tell(notify, message), read)
    foretold = transfer.Training(training_rows, tuned=recipe.adapter.method != "head")
    told = counter(notify, "scoring", f"views, {section.source}", len(views))
    judged = transfer.judge(sample, views, foretold, recipe.evaluation.confidence_level, recipe.seed, told)
    approach = "label words" if sample.examples[0].answers else "head"
    return transfer.BaseFound(
        section.source, approach, views=judged.views, forecast=judged.forecast, control=judged.control
    )


def judge_sources(
    session: Session, sample: Sample, recipe: Recipe, adapters: Sequence[str], notify: Notify
) -> list[SourceFound]:
    """The stored adapters of the session's base as places to start from, and the base itself, asked zero-shot, as what
    they have to beat."""
    from pefttune.evaluation import transfer
    from pefttune.inference import BASE_ITSELF

    names = list(adapters)
    for name in adapters:
        session.load(store.find(Path(recipe.output.store), name), name)
    if names:
        add_zero_shot(session, sample.task, _within(session, recipe, lambda event: None), notify)
    if (itself := BASE_ITSELF + recipe.output.name) in session.names:
        names.append(itself)
    counts = {name: counter(notify, "scoring", name, len(sample.examples)) for name in names}
    return [transfer.judge_source(session, name, sample, session.base.located.origin, counts[name]) for name in names]


def warnings_of(task: tasks.Task, data: Dataset, bases: Sequence[BaseFound]) -> Iterator[str]:
    """What speaks against training as planned."""
    rows = {part: getattr(data, part) for part in PARTS}
    for finding in classes_in(task, rows):
        if finding.level == "warning":
            yield str(finding)
    for base in bases:
        if not base.transfers:
            what = "labels" if base.control else "answers"
            yield f"{base.source}: will not transfer: shuffled {what} are found as well as the real ones"
        if (loss := base.text_loss) and loss.shuffled - loss.real < LITTLE_ORDER:
            yield (
                f"{base.source}: an unlike domain: it loses {loss.real:.2f} nats a token on the texts and "
                f"{loss.shuffled:.2f} when their tokens are shuffled, so their order tells it next to nothing"
            )
