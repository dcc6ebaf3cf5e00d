"""What will transfer, before any training: a sample of the recipe's rows through frozen bases and stored adapters."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pefttune import store, tasks
from pefttune.data import Dataset, Row
from pefttune.data.storage import storage_errors
from pefttune.errors import AdapterError, InputError
from pefttune.pipeline.beginning import read_data
from pefttune.pipeline.judging import judge_base, judge_sources, warnings_of
from pefttune.pipeline.sampling import rows_read, sample
from pefttune.pipeline.telling import tell
from pefttune.recipe import Recipe, resolved_yaml, schema

if TYPE_CHECKING:
    from pefttune.evaluation.transfer import BaseFound, SourceFound, TransferReport
    from pefttune.training import Notify

ALL = "all"
PASSES_OF_A_STEP = 2  # forward, and backward through activations only: frozen weights get no gradient
JSON, PICTURE = "transfer.json", "transfer.png"


@dataclass(frozen=True)
class Probed:
    """The report, and the run folder that holds it as JSON, its picture, and the log."""

    report: TransferReport
    folder: Path


def probe(
    recipe: Recipe,
    sources: Sequence[str] = (),
    adapters: Sequence[str] = (),
    rows: int | None = None,
    notify: Notify = lambda event: None,
) -> Probed:
    """Judge the recipe's base, or the bases `sources`, and stored `adapters` of them (`all`: every one that fits), by a
    sample of at most `rows` rows, without training.

    Raises an InputError, before weights are loaded where it can be known then, and StorageError.
    """
    started, cpu = time.perf_counter(), time.process_time()
    _check_once("--bases", sources)
    _check_once("--adapters", adapters)
    task, data = read_data(recipe)
    if adapters and not task.labels:
        raise InputError(f"--adapters: stored adapters are judged by classes, and {task.name} has none: leave it out")
    chosen = sample(recipe, task, data, rows)
    sections = _sections(recipe, sources)
    fitting = _fitting(recipe, sections, adapters)

    from pefttune import training

    folder = training.new_run_folder(Path(recipe.output.runs), recipe.output.name)
    notify = training.logging_to(folder, notify)
    passes = len(chosen) * (len(sections) + sum(map(len, fitting)))
    share = passes / (PASSES_OF_A_STEP * rows_read(recipe, len(data.train)))
    tell(
        notify,
        f"{len(chosen):,} sampled rows pass once through {_counted(len(sections), 'base')} and "
        f"{_counted(sum(map(len, fitting)), 'adapter')}: about {share:.1%} of the passes of the training",
    )
    bases: list[BaseFound] = []
    starts: list[SourceFound] = []
    for section, own in zip(sections, fitting, strict=True):
        session, judged, found = judge_base(recipe, section, task, chosen, len(data.train), notify)
        bases.append(found)
        starts += judge_sources(session, judged, recipe, own, notify)
        del session  # the next base needs its room
    report = _report(recipe, task, data, chosen, share, bases, starts, time.perf_counter() - started, cpu)
    _write(folder, recipe, report)
    return Probed(report, folder)


def _check_once(option: str, names: Sequence[str]) -> None:
    """Raise InputError for a name that stands twice."""
    if twice := [one for one in names if names.count(one) > 1]:
        raise InputError(f"{option} names {twice[0]!r} twice")


def _sections(recipe: Recipe, sources: Sequence[str]) -> list[schema.Base]:
    """The `base` section for each base."""
    changed = [recipe.base.model_copy(update={"source": one, "revision": None}) for one in sources]
    return changed or [recipe.base]


def _fitting(recipe: Recipe, sections: Sequence[schema.Base], adapters: Sequence[str]) -> list[list[str]]:
    """For each base, those of the adapters asked for that belong to it. Raises BaseError for a base that cannot be
    read, AdapterError for an adapter that is not there or was named and belongs to none of them."""
    from pefttune import bases

    ours = [bases.fingerprint_of(section) for section in sections]
    place = Path(recipe.output.store)
    fitting: list[list[str]] = [[] for _ in sections]
    for name in store.names(place) if ALL in adapters else adapters:
        told = store.read_manifest(store.find(place, name))["base"]
        own = bases.Fingerprint(**told["fingerprint"])
        if own in ours:
            fitting[ours.index(own)].append(name)
        elif ALL not in adapters:
            raise AdapterError(
                f"{name} was trained on another base ({told['source']}, {told['origin']}). They differ in: "
                + "; ".join(ours[0].differences(own))
            )
    if ALL in adapters and not any(fitting):
        raise AdapterError(f"--adapters {ALL}: the store {place} holds none that was trained on these bases")
    return fitting


def _report(
    recipe: Recipe,
    task: tasks.Task,
    data: Dataset,
    chosen: Sequence[Row],
    share: float,
    bases: Sequence[BaseFound],
    starts: Sequence[SourceFound],
    seconds: float,
    cpu: float,
) -> TransferReport:
    from pefttune.evaluation import transfer

    return transfer.TransferReport(
        name=recipe.output.name,
        task=task.name,
        metric=next(iter(task.shown.values())),
        rows=len(chosen),
        training_rows=len(data.train),
        passes_share=share,
        bases=transfer.ranked_bases(bases),
        sources=transfer.ranked_sources(starts),
        label_entropy=transfer.label_entropy([task.reference(row) for row in chosen]) if task.labels else None,
        warnings=tuple(warnings_of(task, data, bases)),
        seconds=seconds,
        cpu_seconds=time.process_time() - cpu,
    )


def _write(folder: Path, recipe: Recipe, report: TransferReport) -> None:
    from pefttune.evaluation import transfer

    with storage_errors(folder):
        (folder / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
        text = json.dumps({**asdict(report), "transfers": report.transfers}, indent=1, ensure_ascii=False)
        (folder / JSON).write_text(text + "\n", encoding="utf-8")
        transfer.draw_transfer(folder / PICTURE, report)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
