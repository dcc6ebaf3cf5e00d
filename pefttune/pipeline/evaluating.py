"""A stored adapter beside its base once more, without any training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import data, store, tasks
from pefttune.data import Dataset, Row
from pefttune.errors import DataError, PefttuneError
from pefttune.pipeline.comparing import add_zero_shot, compare, score
from pefttune.pipeline.telling import tell
from pefttune.recipe import Recipe, recipe_from_mapping

if TYPE_CHECKING:
    from pefttune.evaluation import Comparison
    from pefttune.training import Notify


def evaluate(
    name: str,
    store_folder: Path | str = "adapters",
    source: str | None = None,
    base_source: str | None = None,
    notify: Notify = lambda event: None,
    may_differ: Collection[str] = (),
) -> Comparison:
    """Compare a stored adapter with its base: on the test rows of its recipe, or on a labelled file `source`.

    `base_source` says where the base lies, if this machine has not seen it. It must be the base that the adapter was
    trained on, but for fields of its fingerprint that `may_differ`. Raises AdapterError, BaseError, DataError.
    """
    store_folder = Path(store_folder)
    manifest = store.read_manifest(store.find(store_folder, name))
    recipe = recipe_from_mapping(manifest["recipe"], where=f"{name}/{store.MANIFEST}")
    task = tasks.get(recipe.task).with_labels(manifest["labels"])
    train: Sequence[Row]
    test: Sequence[Row]
    if source is None:
        rows = rows_of_the_training(recipe, task)
        tell_if_changed(rows, manifest, notify)
        train, test = rows.train, rows.test
    else:
        test = data.load_file(source, recipe.data, task.columns, task.check)
        train = _known_rows(recipe, task, test, notify)

    from pefttune.inference import open_session

    session = open_session(name, store_folder, base_source, may_differ=may_differ)
    add_zero_shot(session, task, recipe, notify)
    adapter, others = score(session, name, recipe, train, test, notify)
    comparison = compare(session[name].task, adapter, others, recipe, notify)
    return replace(comparison, base_mismatch=session.base_mismatch(name))


def _known_rows(recipe: Recipe, task: tasks.Task, test: Sequence[Row], notify: Notify) -> Sequence[Row]:
    """What the baseline may know: the training rows where they can be read, else the very rows it is judged on."""
    try:
        return data.load(recipe.data, task.columns, task.inputs, task.check, task.kept_together).train
    except PefttuneError:
        tell(notify, "the training rows cannot be read here, so the baseline is made of the rows it is judged on")
        return test


def rows_of_the_training(recipe: Recipe, task: tasks.Task) -> Dataset:
    """The rows as the recipe finds them today."""
    try:
        return data.load(recipe.data, task.columns, task.inputs, task.check, task.kept_together)
    except DataError as error:  # a published recipe names a private file without its folder
        raise DataError(f"{error} Labelled rows can be given with --data FILE.") from None


def tell_if_changed(rows: Dataset, manifest: Mapping[str, Any], notify: Notify) -> None:
    """Say so where the test rows are others than those of the training."""
    if rows.report.fingerprints["test"] != manifest["data"]["fingerprints"].get("test"):
        tell(notify, f"the data has changed: these are not the test rows of the training of {manifest['name']}")
