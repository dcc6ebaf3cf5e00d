"""What differs between two stored adapters: their settings, their updates layer by layer, their metrics, and the rows
that they answer differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pefttune import data, tasks
from pefttune.data import Row
from pefttune.data.columns import NoColumn, mapped
from pefttune.data.faults import RowFault, refuse
from pefttune.data.sources import read_source
from pefttune.errors import AdapterError, DataError
from pefttune.pipeline.comparing import answering, encoded_for
from pefttune.pipeline.duties import limited
from pefttune.pipeline.evaluating import rows_of_the_training, tell_if_changed
from pefttune.pipeline.looking import by_layer
from pefttune.pipeline.parents import Parent, read_parent
from pefttune.pipeline.trained_on import told_of_rows
from pefttune.recipe import to_mapping
from pefttune.recipe.adapters import Lora

if TYPE_CHECKING:
    from pefttune.evaluation import Difference
    from pefttune.inference import Session
    from pefttune.methods import Change, Parts
    from pefttune.training import Notify

T = TypeVar("T")

OF_NO_ACCOUNT = ("output.name",)
"""Keys of recipes that say nothing of what was trained."""
SAME_WEIGHTS = ("config", "tensors")
"""What two bases must have in common so that updates of one mean something beside those of the other."""


@dataclass(frozen=True)
class ChangedRow:
    """A row that the two answer differently; `reference` is the right answer, where the rows are labelled."""

    origin: str
    text: str
    reference: str | None
    first: str
    second: str


@dataclass(frozen=True)
class RowsDiff:
    """The two on so many same rows. Where these are labelled: metrics, and the difference of the primary one, the
    second's minus the first's. `notes` are sentences on rows that one of the two was trained on, or may have been."""

    rows: int
    changed: tuple[ChangedRow, ...]
    metrics: dict[str, tuple[float | None, float | None]] | None
    difference: Difference | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diff:
    """Two stored adapters, by `name@version`. Pairs are the first's and the second's.

    `settings` are keys of their recipes, and fields of their bases' fingerprints as `base.fingerprint.…`; `metrics`
    those that each was stored with, on its own test rows. `changes` are those of updates by module,
    and of heads by tensor; these and `rows` are None where they cannot be compared, and `refused` says why.
    """

    first: str
    second: str
    settings: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[float | None, float | None]]
    changes: dict[str, Change] | None
    rows: RowsDiff | None
    refused: tuple[str, ...]

    @property
    def layers(self) -> dict[str, Change]:
        """The changes of all modules of each layer together."""
        return {layer: reduce(add, each.values()) for layer, each in by_layer(self.changes or {}).items()}


def diff(
    names: tuple[str, str],
    store_folder: Path | str = "adapters",
    source: str | None = None,
    max_rows: int | None = None,
    base_source: str | None = None,
    notify: Notify = lambda event: None,
) -> Diff:
    """Compare two stored adapters, on the test rows of the first one's recipe or on the rows of a file `source`,
    labelled or not, `max_rows` of them at most; with 0 no base is read.

    What cannot be compared is left out and told. `base_source` says where their base lies, if this machine has not
    seen it. Raises AdapterError, BaseError, DataError.
    """
    first, second = (read_parent(Path(store_folder), name) for name in names)
    if first.folder == second.folder:
        raise AdapterError(f"{names[0]} and {names[1]} are the same version, {first.called}: name two")
    changes: dict[str, Change] | str = _no_changes(first, second) or _changes(first, second)
    rows = _no_rows(first, second, max_rows) or _answers(
        first, second, Path(store_folder), source, max_rows, base_source, notify
    )
    return Diff(
        first=first.called,
        second=second.called,
        settings=_settings(first, second),
        metrics=_side_by_side(*(_stored_metrics(one) for one in (first, second))),
        changes=None if isinstance(changes, str) else changes,
        rows=None if isinstance(rows, str) else rows,
        refused=tuple(
            f"Their {what} are not compared: {found.removesuffix('.')}."
            for what, found in (("updates", changes), ("answers", rows))
            if isinstance(found, str)
        ),
    )


def _answers(
    first: Parent,
    second: Parent,
    store_folder: Path,
    source: str | None,
    max_rows: int | None,
    base_source: str | None,
    notify: Notify,
) -> RowsDiff | str:
    """What they answer, or why that cannot be known."""
    task = tasks.get(first.recipe.task).with_labels(first.manifest["labels"])
    try:
        rows, labelled = _rows(first, task, source, max_rows, notify)  # before a base is read
    except DataError as error:
        if source is not None:
            raise
        return str(error)

    from pefttune.inference import open_session

    notes = tuple(filter(None, (told_of_rows(one, rows) for one in (first, second))))
    session = open_session([first.called, second.called], store_folder, base_source)
    return replace(_on_rows(session, first, second, rows, labelled, notify), notes=notes)


def _settings(first: Parent, second: Parent) -> dict[str, tuple[Any, Any]]:
    ours, theirs = (
        dict(_flat(to_mapping(one.recipe)))
        | {f"base.fingerprint.{key}": value for key, value in one.manifest["base"]["fingerprint"].items()}
        for one in (first, second)
    )
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key not in OF_NO_ACCOUNT]
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def _flat(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Sections' keys as they are written: `adapter.r`."""
    for section, content in recipe.items():
        if isinstance(content, dict):
            yield from ((f"{section}.{key}", value) for key, value in content.items())
        else:
            yield section, content


def _stored_metrics(one: Parent) -> dict[str, float]:
    comparison = one.manifest["comparison"]
    return {called: comparison["adapter"][key] for key, called in comparison["shown"].items()}


def _side_by_side(
    ours: Mapping[str, float], theirs: Mapping[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    return {called: (ours.get(called), theirs.get(called)) for called in dict.fromkeys([*ours, *theirs])}


def _no_changes(first: Parent, second: Parent) -> str | None:
    """Why their updates cannot be compared; None where they can."""
    for one in (first, second):
        if not isinstance(one.recipe.adapter, Lora):
            return f"{one.called} is a {one.recipe.adapter.method}, and only what a lora adds to a weight is a product"
    if differing := [key for key in _other_base(first, second) if key in SAME_WEIGHTS]:
        return f"they belong to the weights of different bases, which differ in {' and '.join(differing)}"
    return None


def _no_rows(first: Parent, second: Parent, max_rows: int | None) -> str | None:
    """Why their answers cannot be compared, or are not to be; None where they can."""
    if max_rows == 0:
        return "no rows were asked for"
    if differing := _other_base(first, second):
        return f"they were trained on different bases, which differ in {', '.join(differing)}, and a session has one"
    ours, theirs = (tasks.get(one.recipe.task) for one in (first, second))
    if type(ours) is not type(theirs):
        return f"{first.called} does {ours.name} and {second.called} {theirs.name}, or another kind of it"
    if first.manifest["labels"] != second.manifest["labels"]:
        told = (", ".join(one.manifest["labels"]) or "none" for one in (first, second))
        return f"their labels differ ({' | '.join(told)})"
    return None


def _other_base(first: Parent, second: Parent) -> list[str]:
    ours, theirs = (one.manifest["base"]["fingerprint"] for one in (first, second))
    return [field.replace("_", " ") for field in ours if ours[field] != theirs.get(field)]


def _changes(first: Parent, second: Parent) -> dict[str, Change]:
    """By module, as transformers names it; then a head's tensors, by their keys, where its numbers mean the same."""
    from pefttune import methods

    ours, theirs = _parts(first), _parts(second)
    try:
        changes = _each(methods.change, ours.updates, theirs.updates)
        if first.manifest["labels"] == second.manifest["labels"]:
            changes |= _each(methods.change_of_tensor, ours.others, theirs.others)
    except RuntimeError:  # torch's, for other shapes
        raise AdapterError(
            f"{first.called} and {second.called} change the same modules in other shapes, as one base's cannot be"
        ) from None
    return changes


def _each(
    measure: Callable[[T | None, T | None], Change], ours: Mapping[str, T], theirs: Mapping[str, T]
) -> dict[str, Change]:
    from pefttune import methods

    names = dict.fromkeys([*ours, *theirs])
    return {name.removeprefix(methods.FILE_PREFIX): measure(ours.get(name), theirs.get(name)) for name in names}


def _parts(one: Parent) -> Parts:
    from pefttune import methods

    section = one.recipe.adapter.stored()
    assert isinstance(section, Lora)
    return methods.stored_parts(one.folder, section, one.manifest["files"][methods.weights.WEIGHTS])


def _rows(
    first: Parent, task: tasks.Task, source: str | None, max_rows: int | None, notify: Notify
) -> tuple[Sequence[Row], bool]:
    """The rows to compare on, and whether they are labelled."""
    config = limited(first.recipe, max_rows).data
    if source is None:
        rows = rows_of_the_training(limited(first.recipe, max_rows), task)
        if max_rows is None:
            tell_if_changed(rows, first.manifest, notify)
        return rows.test, True
    columns = {column: config.columns.get(column, column) for column in task.columns}
    if _has_all(next(read_source(source, config, refuse)), columns):
        return data.load_file(source, config, task.columns, task.check)[:max_rows], True

    from pefttune.inference.rows import as_row

    inputs = {column: columns[column] for column in task.inputs}
    read = islice(mapped(read_source(source, config, refuse), inputs, refuse), max_rows)
    return [as_row(row, task, number) for number, row in enumerate(read, start=1)], False


def _has_all(row: Row, columns: Mapping[str, str]) -> bool:
    try:
        data.take_columns(row.values, tuple(columns), columns)
    except NoColumn:
        return False
    except RowFault:  # told with its place when the rows are read
        return True
    return True


def _on_rows(
    session: Session, first: Parent, second: Parent, rows: Sequence[Row], labelled: bool, notify: Notify
) -> RowsDiff:
    from pefttune import evaluation

    predicted = []
    for one in (first, second):
        encoded = encoded_for(session, one.called, one.recipe, rows, "test", notify)
        progress = answering(session, one.called, one.called, encoded, notify)
        predicted.append(session.predictions(one.called, rows, encoded, progress))
    task, (ours, theirs) = session[first.called].task, predicted
    changed = tuple(
        ChangedRow(
            row.origin,
            "".join(piece.text for piece in before.pieces(row)),
            task.reference(row) if labelled else None,
            str(before),
            str(after),
        )
        for row, before, after in zip(rows, ours, theirs, strict=True)
        if str(before) != str(after)
    )
    if not labelled:
        return RowsDiff(len(rows), changed, None, None)
    mine, other = (
        evaluation.judge(each.called, task, rows, own) for each, own in zip((first, second), predicted, strict=True)
    )
    settings = first.recipe.evaluation
    difference = evaluation.paired_difference(
        mine.name,
        other.tallies,
        mine.tallies,
        task.primary_of,
        settings.bootstrap_samples,
        settings.confidence_level,
        first.recipe.seed,
    )
    metrics = {called: (mine.metrics[key], other.metrics[key]) for key, called in task.shown.items()}
    return RowsDiff(len(rows), changed, metrics, difference)
