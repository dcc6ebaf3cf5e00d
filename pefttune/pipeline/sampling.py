"""The rows that a probe looks at, and what can be wrong with them, told before a weight is read."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pefttune import tasks
from pefttune.data import Dataset, Row
from pefttune.data.splits import keyed, limit
from pefttune.doctor import Counts
from pefttune.errors import DataError, RecipeError
from pefttune.recipe import Recipe

# By default a twentieth of the rows that training reads, once and without a backward pass: some 2 % of its time, and
# what is learned from the states takes about as long again.
PART_OF_TRAINING, FEWEST, MOST = 0.05, 200, 1000
TOO_FEW = 40


def sample(recipe: Recipe, task: tasks.Task, data: Dataset, most: int | None) -> list[Row]:
    """Training and validation rows, at most so many, chosen by content as `data.max_train_samples` does and put in a
    random order. Raises RecipeError for a task that cannot be probed, DataError for rows that say nothing."""
    problem = getattr(recipe.task, "problem_type", "single_label_classification")
    if problem != "single_label_classification":
        raise RecipeError(
            f"task.problem_type: {problem} cannot be probed; one label for a text, tags of words, and answers that are "
            "written or found in a passage can"
        )
    wanted = most or round(min(max(PART_OF_TRAINING * rows_read(recipe, len(data.train)), FEWEST), MOST))
    chosen = [item.row for item in limit(keyed((*data.train, *data.validation), task.inputs), wanted)]
    random.Random(recipe.seed).shuffle(chosen)
    _check(task, chosen)
    return chosen


def rows_read(recipe: Recipe, train: int) -> int:
    """How many rows, each as often as it comes, pass through the base while `train` rows are trained on."""
    config = recipe.training
    if config.max_steps:
        return config.max_steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
    return max(1, round(train * config.num_train_epochs))


def _check(task: tasks.Task, rows: Sequence[Row]) -> None:
    if len(rows) < TOO_FEW:
        raise DataError(
            f"{len(rows)} rows are too few to tell anything; a probe needs {TOO_FEW} of training and validation"
        )
    if not isinstance(task, Counts):
        return
    kinds = {kind for row in rows for kind in task.kinds(row)}
    if not kinds:
        raise DataError(f"none of the {len(rows)} sampled rows has an entity: sample more (--rows)")
    if len(kinds) == 1 and len(task.labels) > 1:
        raise DataError(
            f"all {len(rows)} sampled rows are of the class {kinds.pop()!r}, so nothing tells classes apart: sample "
            "more (--rows), or give rows of the others"
        )
