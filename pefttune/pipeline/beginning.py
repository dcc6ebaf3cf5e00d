"""All that can fail before a weight is read: recipes that do not fit together, bad data, a store without room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pefttune import data, store, tasks
from pefttune.data import Dataset
from pefttune.data.storage import storage_errors
from pefttune.errors import RecipeError
from pefttune.pipeline.fusing import with_members
from pefttune.pipeline.parents import Parent
from pefttune.pipeline.telling import tell
from pefttune.pipeline.warm_starting import parent_of
from pefttune.recipe import Recipe, resolved_yaml
from pefttune.recipe.adapters import Fusion

if TYPE_CHECKING:
    from pefttune.training import Notify


@dataclass(frozen=True)
class Line:
    """One recipe on its way: its task and rows, and where its events and files go."""

    recipe: Recipe
    task: tasks.Task
    rows: Dataset
    run_folder: Path
    notify: Notify
    parents: tuple[Parent, ...] = ()
    """The stored adapters that training begins with: the one of a warm start, or the members of a fusion."""

    @property
    def name(self) -> str:
        """That of its adapter."""
        return self.recipe.output.name


def check_together(recipes: Sequence[Recipe]) -> None:
    """Raise RecipeError unless the recipes can be trained on one base, AdapterError for an unsafe name."""
    if not recipes:
        raise RecipeError("no recipe was given; name at least one")
    names = [store.check_name(recipe.output.name) for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"two of the recipes make an adapter {twice[0]!r}: give each its own output.name")
    for recipe in recipes[1:]:
        if recipe.base != recipes[0].base:
            raise RecipeError(
                f"{recipe.output.name} and {names[0]} have different `base` sections; together they need the same"
            )
        if recipe.training.max_batch_tokens != recipes[0].training.max_batch_tokens:
            raise RecipeError(
                f"{recipe.output.name} and {names[0]} have different training.max_batch_tokens; they share batches"
            )
    if trackers := [name for recipe in recipes[1:] for name in recipe.training.report_to if name != "tensorboard"]:
        raise RecipeError(f"training.report_to: {trackers[0]} holds one run in a process; together, use tensorboard")


def read_data(recipe: Recipe) -> tuple[tasks.Task, Dataset]:
    """The recipe's task, its labels settled, and its rows, checked and split. Imports no torch. Raises DataError."""
    task = tasks.get(recipe.task)
    rows = data.load(recipe.data, task.columns, task.inputs, task.check, task.kept_together)
    return task.with_labels_of(rows.train, (*rows.validation, *rows.test)), rows


def with_parents(recipe: Recipe) -> tuple[Recipe, tuple[Parent, ...]]:
    """The stored adapters that the recipe's training begins with, and the recipe with what it needs to know of them.
    Raises AdapterError."""
    if isinstance(recipe.adapter, Fusion):
        return with_members(recipe, recipe.adapter)
    parent = parent_of(recipe)
    return recipe, () if parent is None else (parent,)


def begin(recipe: Recipe, notify: Notify, *, named: bool) -> Line:
    """Data read and checked, the store tried, a run folder opened with the resolved recipe in it."""
    task, rows = read_data(recipe)
    recipe, parents = with_parents(recipe)
    with store.staged(Path(recipe.output.store), recipe.output.name):
        pass  # a store that cannot be written to says so now, not when the training is over

    from pefttune import training

    run_folder = training.new_run_folder(Path(recipe.output.runs), recipe.output.name)
    resolved = run_folder / "recipe.yaml"
    with storage_errors(resolved):
        resolved.write_text(resolved_yaml(recipe), encoding="utf-8")
    label = {"run": recipe.output.name} if named else {}
    logged = training.logging_to(run_folder, lambda event: notify({**event, **label}))
    logged({"event": "data", **asdict(rows.report)})
    if rows.kept_together:
        parts = ", ".join(f"{count:,} {part}" for part, count in rows.report.rows.items())
        tell(logged, f"rows with the same {' and '.join(rows.kept_together)} stay in one part: {parts}")
    return Line(recipe, task, rows, run_folder, logged, parents)
