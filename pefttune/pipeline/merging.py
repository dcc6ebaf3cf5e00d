"""Several stored adapters become a new one, which goes the way of a trained one: compared, proven, stored."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.errors import AdapterError
from pefttune.pipeline.beginning import Line, begin
from pefttune.pipeline.comparing import add_zero_shot, compare, encoded_for, illustrate, score, scored
from pefttune.pipeline.duties import Duty, duty, limited
from pefttune.pipeline.evaluating import tell_if_changed
from pefttune.pipeline.joining import Way, check_alike, check_way, rank, read_parents
from pefttune.pipeline.parents import Parent
from pefttune.pipeline.proving import Trained, save
from pefttune.pipeline.searching import Weights
from pefttune.pipeline.weighing import sought
from pefttune.recipe import Recipe
from pefttune.recipe.adapters import Lora

if TYPE_CHECKING:
    from pefttune.evaluation import Comparison, Scored
    from pefttune.inference import Loaded, Session
    from pefttune.training import Notify


@dataclass(frozen=True)
class Merge:
    """What merging leaves: the stored adapter's folder and manifest, whose `lineage` tells of the tasks of all parents,
    the comparison on the first one's task, and the folder with log and figure."""

    folder: Path
    manifest: dict[str, Any]
    comparison: Comparison
    run_folder: Path
    seconds: float


def merge(
    names: Sequence[str],
    to: str,
    way: Way | None = None,
    store_folder: Path | str = "adapters",
    base_source: str | None = None,
    max_rows: int | None = None,
    notify: Notify = lambda event: None,
) -> Merge:
    """Merge stored LoRA adapters of one base into the new adapter `to`, evaluated on the tasks of all.

    It carries the recipe of the first: prompt, labels and data. `max_rows` limits the rows of each task that it is
    judged on. `base_source` says where the base lies, if this machine has not seen it. Raises a PefttuneError; the
    store is then as it was.
    """
    started, way = time.perf_counter(), way or Way()
    check_way(way, len(names))
    parents = read_parents(Path(store_folder), names, to)
    check_alike(parents)
    r = rank(parents, way)
    recipe, origin = _recipe(parents, to, r, str(store_folder), base_source)
    line = begin(limited(recipe, max_rows), notify, named=False)
    duties = _duties(line, parents, max_rows)
    session = _opened(line, duties, origin)
    trained = _compared(session, line, duties, way, r)
    del session  # the proof needs room for a fresh base
    gc.collect()
    [folder] = save([trained])
    seconds = time.perf_counter() - started
    line.notify({"event": "stored", "name": to, "folder": str(folder), "seconds": seconds})
    return Merge(folder, trained.manifest, trained.comparison, line.run_folder, seconds)


def _recipe(
    parents: Sequence[Parent], to: str, r: int, store_folder: str, base_source: str | None
) -> tuple[Recipe, str | None]:
    """The merged adapter's: that of the first parent, with an `adapter` section of its own, in which B · A is the whole
    update. And where the base comes from, if that is pinned."""
    from pefttune.inference import base_section_of

    first = parents[0]
    base, origin = base_section_of(first.manifest, first.recipe.base, base_source)
    ours = first.recipe.adapter
    assert isinstance(ours, Lora)
    adapter = Lora(
        method="lora",
        r=r,
        lora_alpha=r,
        target_modules=ours.target_modules,
        layers=ours.layers,
        rank_pattern={name: 0 for name, own in ours.rank_pattern.items() if own == 0},
    )
    licenses = {parent.recipe.output.license for parent in parents}
    output = {"name": to, "store": store_folder, "license": licenses.pop() if len(licenses) == 1 else None}
    changed = {"base": base, "adapter": adapter, "output": first.recipe.output.model_copy(update=output)}
    return first.recipe.model_copy(update=changed), origin


def _duties(line: Line, parents: Sequence[Parent], max_rows: int | None) -> list[Duty]:
    """The tasks of all parents with their rows; those of the first are the line's own. Raises AdapterError where these
    have other labels than it was trained on."""
    first, *others = parents
    if line.task.labels != tuple(first.manifest["labels"]):
        ours, theirs = (", ".join(labels) or "none" for labels in (line.task.labels, first.manifest["labels"]))
        raise AdapterError(
            f"the rows of {first.called} have other labels than it was trained on ({ours} | {theirs}): name another "
            "adapter first, or give task.labels in its recipe and train it anew"
        )
    if max_rows is None:
        tell_if_changed(line.rows, first.manifest, line.notify)
    named = [(parent, f"{line.name} on {parent.called}") for parent in others]
    own = Duty(first, line.name, line.rows.validation, line.rows.test)
    return [own, *(duty(parent, name, max_rows, line.notify) for parent, name in named)]


def _opened(line: Line, duties: Sequence[Duty], origin: str | None) -> Session:
    """A session with the parents, and the merged adapter, which does nothing yet, for the task of each."""
    from pefttune import bases, publishing
    from pefttune.inference import Session

    recipe = line.recipe
    base = bases.load(recipe.base, origin=origin)
    told = publishing.describe_base(base, recipe)
    line.notify({"event": "base", **told, "dtype_reason": base.dtype_reason, "dense": base.dense})
    session = Session(base, recipe.training.max_batch_tokens)
    first, *others = [session.load(each.parent.folder, name=each.parent.called) for each in duties]
    merged = session.add(line.name, session.attach(first.task, recipe.adapter, recipe.data.max_length))
    for each, its in zip(duties[1:], others, strict=True):
        session.add(each.merged, replace(its, adapter=merged.adapter, head=merged.head))
    add_zero_shot(session, first.task, recipe, line.notify)
    return session


def _compared(session: Session, line: Line, duties: Sequence[Duty], way: Way, r: int) -> Trained:
    """The merged adapter beside its base and the first parent on that one's task, and beside each parent on its own;
    and all that its proof and its folder need, on the CPU."""
    from pefttune import evaluation, publishing

    remerge = partial(_remerge, session, session[line.name], duties, way, r)
    weights, told = way.weights or (1 / len(duties),) * len(duties), None
    if way.search is not None:
        weights, told = sought(session, duties, way.search, remerge, line.notify)
    kept = remerge(weights)
    ours, rows = session[line.name], line.rows
    adapter, others = score(session, line.name, line.recipe, rows.train, rows.test, line.notify)
    first, *more = [each for each in duties if each.test]
    [alone] = _scored(session, first, [first.parent.called], line.notify)
    tables = [_told(session, first, alone, adapter)]
    for each in more:
        tables.append(_told(session, each, *_scored(session, each, [each.parent.called, each.merged], line.notify)))
    comparison = compare(ours.task, adapter, [*others, alone], line.recipe, line.notify)
    lineage = {
        "how": way.how,
        "r": r,
        "kept": kept,
        "density": way.pruned_to,
        "seed": way.seed,
        "parents": [{**each.parent.lineage(), "weight": w} for each, w in zip(duties, weights, strict=True)],
        "tasks": tables,
        "search": told,
    }
    manifest = publishing.describe(line.recipe, session.base, ours, rows.report, comparison, {}, lineage)
    illustrate(line.run_folder, line.name, ours.task, comparison)
    manifest["probe"] = evaluation.take_probe(session, line.name, rows.test)
    return Trained(line, manifest, comparison, ours.state(), ours.peft_config())


def _remerge(session: Session, merged: Loaded, duties: Sequence[Duty], way: Way, r: int, weights: Weights) -> float:
    """Write what the parents are together with these weights into the merged adapter; the share of the update that is
    left at its rank."""
    import torch

    from pefttune import methods

    parents = [session[each.parent.called] for each in duties]
    updates = [parent.adapter.updates for parent in parents if isinstance(parent.adapter, methods.LoraAdapter)]
    found = methods.merge(updates, weights, way.how, r, way.pruned_to or 1.0, way.seed)
    state = {
        f"{name}.lora_{half}.weight": factor
        for name, factors in found.factors.items()
        for half, factor in zip("AB", factors, strict=True)
    }
    shares = [weight / sum(weights) for weight in weights]
    for key in merged.parameters.keys() - state.keys():  # the head's, which are averaged
        each = zip(shares, parents, strict=True)
        state[key] = torch.stack([share * parent.parameters[key] for share, parent in each]).sum(0)
    merged.load_state(state)
    return found.kept


def _scored(session: Session, each: Duty, names: Sequence[str], notify: Notify) -> list[Scored]:
    """These adapters of the session on the parent's test rows."""
    encoded = encoded_for(session, each.parent.called, each.parent.recipe, each.test, "test", notify)
    return [scored(session, name, name, each.test, encoded, notify) for name in names]


def _told(session: Session, each: Duty, alone: Scored, merged: Scored) -> dict[str, Any]:
    """The primary metric of a parent and of the merged adapter on the parent's test rows."""
    task = session.purpose(each.parent.called).task
    primary, shown = next(iter(task.shown.items()))
    told = {"adapter": each.parent.called, "task": task.name, "metric": shown, "rows": len(each.test)}
    return {**told, "alone": alone.metrics[primary], "merged": merged.metrics[primary]}
