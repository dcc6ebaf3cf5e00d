"""What a merged adapter is judged by: the tasks of its parents, each on rows that the parent was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pefttune import data, tasks
from pefttune.data import Row
from pefttune.errors import PefttuneError
from pefttune.pipeline.evaluating import tell_if_changed
from pefttune.pipeline.parents import Parent
from pefttune.pipeline.telling import tell
from pefttune.recipe import Recipe

if TYPE_CHECKING:
    from pefttune.training import Notify


@dataclass(frozen=True)
class Duty:
    """A parent, what the merged adapter is called in the session where it does this parent's task, and the rows that
    both are judged by: none where the parent's data cannot be read."""

    parent: Parent
    merged: str
    validation: Sequence[Row]
    test: Sequence[Row]


def duty(parent: Parent, merged: str, max_rows: int | None, notify: Notify) -> Duty:
    """That of a parent, its rows read; without rows, after a notice, where they cannot be."""
    config, task = limited(parent.recipe, max_rows).data, tasks.get(parent.recipe.task)
    task = task.with_labels(parent.manifest["labels"])
    try:
        rows = data.load(config, task.columns, task.inputs, task.check, task.kept_together)
    except PefttuneError as error:
        tell(notify, f"the rows of {parent.called} cannot be read, so nothing is judged on its task: {error}")
        return Duty(parent, merged, (), ())
    if max_rows is None:
        tell_if_changed(rows, parent.manifest, notify)
    return Duty(parent, merged, rows.validation, rows.test)


def limited(recipe: Recipe, max_rows: int | None) -> Recipe:
    """The recipe, with so many validation and test rows at most."""
    if max_rows is None:
        return recipe
    ours = recipe.data
    limits = {
        "max_eval_samples": min(ours.max_eval_samples or max_rows, max_rows),
        "max_test_samples": min(ours.max_test_samples or max_rows, max_rows),
    }
    return recipe.model_copy(update={"data": ours.model_copy(update=limits)})
