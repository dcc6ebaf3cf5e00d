"""Which of the rows that stored adapters are compared on they were trained on: such rows say little of them."""

from __future__ import annotations

from collections.abc import Sequence

from pefttune import data, tasks
from pefttune.data import Row
from pefttune.data.splits import keyed
from pefttune.errors import PefttuneError
from pefttune.pipeline.parents import Parent


def told_of_rows(one: Parent, rows: Sequence[Row]) -> str | None:
    """A sentence where the adapter was trained on some of these rows, or its best weights were chosen by them, or where
    that is not known; None where it saw none. Rows are the same where their inputs are."""
    if (why := _not_known(one)) is not None:
        return f"whether {one.called} was trained on these rows is not known: {why}"
    task = tasks.get(one.recipe.task).with_labels(one.manifest["labels"])
    try:
        own = data.load(one.recipe.data, task.columns, task.inputs, task.check, task.kept_together)
    except PefttuneError as error:
        return f"whether {one.called} was trained on these rows is not known: {str(error).removesuffix('.')}"
    if own.report.fingerprints["train"] != one.manifest["data"]["fingerprints"].get("train"):
        return f"whether {one.called} was trained on these rows is not known: its training rows have changed since"
    asked = {item.key for item in keyed(rows, task.inputs)}
    train, validation = (
        len(asked & {item.key for item in keyed(part, task.inputs)}) for part in (own.train, own.validation)
    )
    if not train + validation:
        return None
    return (
        f"{one.called} was trained on {train:,} of these {len(asked):,} rows, and its best weights were chosen by "
        f"{validation:,}: its answers to those say little of others"
    )


def _not_known(one: Parent) -> str | None:
    """Why its recipe does not say by which rows it came about; None where it does."""
    lineage = one.manifest.get("lineage")
    if lineage is None:
        return None
    if lineage["how"] == "import":
        return "it was taken in from a folder, and its recipe is that of the import"
    return "it was made from other adapters, each trained on rows of its own"
