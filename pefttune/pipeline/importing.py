"""An adapter that plain PEFT, or a trainer on top of it, has left in a folder goes the way of a trained one: attached,
compared, proven, stored."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pefttune.data.storage import storage_errors
from pefttune.errors import AdapterError
from pefttune.pipeline.beginning import Line, begin
from pefttune.pipeline.comparing import add_zero_shot, compare, illustrate, score
from pefttune.pipeline.duties import limited
from pefttune.pipeline.proving import Trained, save
from pefttune.pipeline.telling import tell
from pefttune.recipe import Recipe, recipe_from_mapping, resolved_yaml, to_mapping
from pefttune.recipe.adapters import Lora
from pefttune.store.strict_json import shown

if TYPE_CHECKING:
    from pefttune.bases import Base
    from pefttune.evaluation import Comparison
    from pefttune.inference import Loaded, Session
    from pefttune.methods import Foreign
    from pefttune.training import Notify


@dataclass(frozen=True)
class Import:
    """What taking an adapter in leaves: the stored one's folder and manifest, the comparison, the folder with log and
    figure, and what was left aside of the folder it came from, in sentences."""

    folder: Path
    manifest: dict[str, Any]
    comparison: Comparison
    run_folder: Path
    notes: tuple[str, ...]
    seconds: float


def take_in(
    folder: Path | str,
    recipe: Recipe,
    name: str,
    max_rows: int | None = None,
    notify: Notify = lambda event: None,
) -> Import:
    """Take the LoRA or DoRA that PEFT has written into `folder` into the recipe's store, as a version of `name`.

    The recipe says what it is for: task, prompt, base and data; its `adapter` section is what the folder is. On the
    test rows, `max_rows` of them at most, it is compared with the base. Raises a PefttuneError; the store is then as
    it was.
    """
    started = time.perf_counter()

    from pefttune import methods

    foreign = methods.read_foreign(Path(folder))
    changes = {
        "adapter": Lora(method="lora", r=foreign.config.r),  # until the base is known
        "output": recipe.output.model_copy(update={"name": name}),
    }
    line = begin(limited(recipe.model_copy(update=changes), max_rows), notify, named=False)
    session, line = _opened(line, foreign)
    notes = (*foreign.notes, *_of_the_base(session.base, foreign), *_of_the_head(session[name]))
    for note in notes:
        tell(line.notify, note)
    trained = _compared(session, line, foreign, notes)
    del session  # the proof needs room for a fresh base
    gc.collect()
    [version] = save([trained])
    seconds = time.perf_counter() - started
    line.notify({"event": "stored", "name": name, "folder": str(version), "seconds": seconds})
    return Import(version, trained.manifest, trained.comparison, line.run_folder, notes, seconds)


def _opened(line: Line, foreign: Foreign) -> tuple[Session, Line]:
    """A session with the adapter in it, and the base itself, to be asked zero-shot; and the line, whose recipe now says
    what the adapter is."""
    from pefttune import bases, methods, publishing
    from pefttune.inference import Session

    base = bases.load(line.recipe.base)
    told = publishing.describe_base(base, line.recipe)
    line.notify({"event": "base", **told, "dtype_reason": base.dtype_reason, "dense": base.dense})
    prefix = methods.path_in_class(base.model)
    section = methods.section_of(foreign, methods.linear_modules(base.model), prefix)
    where = f"{foreign.folder}/{methods.weights.CONFIG}"
    recipe = recipe_from_mapping({**to_mapping(line.recipe), "adapter": section}, where)
    resolved = line.run_folder / "recipe.yaml"
    with storage_errors(resolved):
        resolved.write_text(resolved_yaml(recipe), encoding="utf-8")
    session = Session(base, recipe.training.max_batch_tokens)
    add_zero_shot(session, line.task, recipe, line.notify)
    loaded = session.attach(line.task, recipe.adapter, recipe.data.max_length)
    _check_head(foreign, loaded, recipe)
    loaded.load_state(methods.read_into(foreign, loaded.tensors))
    session.add(line.name, loaded)
    return session, replace(line, recipe=recipe)


def _check_head(foreign: Foreign, loaded: Loaded, recipe: Recipe) -> None:
    """Raise AdapterError unless the folder has the head that the recipe's task has here, and no other whole layer."""
    ours = set(loaded.head.by_key()) if loaded.head else set()
    if ours != set(foreign.others):
        raise AdapterError(
            f"{foreign.folder} has {_listed(foreign.others)} beside its updates, and the recipe's task, "
            f"{recipe.task.type}, takes {_listed(sorted(ours))}: take the recipe of the task that it was trained for, "
            "with task.approach where there are several"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (" …" if len(names) > 5 else "") if names else "no head"


def _of_the_base(base: Base, foreign: Foreign) -> Iterator[str]:
    told, ours = foreign.config.base, base.located
    if told is not None and told not in (ours.hub_id, ours.origin):
        yield (
            f"it says that its base is {told}; it is taken as an adapter of {ours.hub_id or ours.origin}, whose layers "
            "it fits: whether it was trained on that, only the comparison tells"
        )


def _of_the_head(loaded: Loaded) -> Iterator[str]:
    if loaded.head is not None and loaded.task.labels:
        outputs = ", ".join(f"{number} is {label!r}" for number, label in enumerate(loaded.task.labels))
        yield f"outputs of its head are read in the order of the recipe's labels: {outputs}"


def _compared(session: Session, line: Line, foreign: Foreign, notes: Sequence[str]) -> Trained:
    """The adapter beside its base, and all that its proof and its folder need, on the CPU."""
    from pefttune import evaluation, publishing

    ours, rows = session[line.name], line.rows
    adapter, others = score(session, line.name, line.recipe, rows.train, rows.test, line.notify)
    comparison = compare(ours.task, adapter, others, line.recipe, line.notify)
    lineage = {
        "how": "import",
        "sha256": foreign.sha256,
        "base": _without_folders(foreign.config.base) if foreign.config.base else None,
        "peft_version": foreign.config.peft_version,
    }
    manifest = publishing.describe(line.recipe, session.base, ours, rows.report, comparison, {}, lineage)
    illustrate(line.run_folder, line.name, ours.task, comparison)
    manifest["probe"] = evaluation.take_probe(session, line.name, rows.test)
    return Trained(line, manifest, comparison, ours.state(), ours.peft_config())


def _without_folders(base: str) -> str:
    """A Hub id as it is; of a path of somebody's machine only the end."""
    plain = base.replace("\\", "/")
    return base if plain.count("/") == 1 and plain[0] not in "./~" else PurePath(plain).name
