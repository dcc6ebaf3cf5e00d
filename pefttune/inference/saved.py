"""From a stored adapter to one on the base: its folder is read and checked before anything is attached."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import bases, methods, store, tasks
from pefttune.errors import AdapterError, BaseError, DataError
from pefttune.inference.loaded import Loaded
from pefttune.inference.shelf import Source
from pefttune.recipe import Recipe, recipe_from_mapping
from pefttune.store.strict_json import shown
from pefttune.tasks.head import width_of

if TYPE_CHECKING:
    from pefttune.inference.session import Session

OWN_NAME = re.compile(r"(?!-|\.\.?$)[^/\\\x00-\x1f\x7f]{1,255}")
"""What a folder or file of somebody's own can be called: no path, no id with an owner, no option of a program."""
REVISION = re.compile(r"\w[\w./-]{0,255}")


@dataclass(frozen=True)
class Saved:
    """What was found, whole, in an adapter's folder."""

    manifest: dict[str, Any]
    recipe: Recipe
    source: Source
    mismatch: bases.Mismatch
    """How the base differs from the one that it was trained on, in fields in which it may."""


def read_saved(
    folder: Path, base: bases.Base, expected: Source | None = None, may_differ: Collection[str] = ()
) -> Saved:
    """What is saved in `folder`, whole and for this base, but for fields of its fingerprint that `may_differ`. Raises
    AdapterError, also when it is not what is expected there."""
    manifest = store.read_manifest(folder)
    weights = methods.weights.WEIGHTS
    source = Source(folder.resolve(), manifest["files"][weights], (folder / weights).stat().st_size)
    if expected is not None and source != expected:
        raise AdapterError(f"{folder} holds other weights than when it was loaded; remove the adapter and load it")
    check_config(folder, manifest)
    mismatch = check_base(manifest, base.fingerprint, may_differ)
    recipe = recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}")
    return Saved(manifest, recipe, source, mismatch)


def check_config(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise AdapterError where `adapter_config.json` would do harm to its reader, or names another base."""
    base, weights = manifest["base"], methods.weights
    if base["hub_id"] is None and not OWN_NAME.fullmatch(base["origin"]):
        raise AdapterError(
            f"{folder / store.MANIFEST} says that its base is not on the Hub, and calls it "
            f"'{shown(base['origin'])}', which plain PEFT would fetch from there, or read from that path"
        )
    if base["revision"] is not None and not REVISION.fullmatch(base["revision"]):
        raise AdapterError(f"{folder / store.MANIFEST}: '{shown(base['revision'])}' is no revision of a base")
    config = methods.configuration.read(folder, manifest["files"][weights.CONFIG])
    told = (config.get("base_model_name_or_path"), config.get("revision"))
    if told != (base["hub_id"] or base["origin"], base["revision"]):
        raise AdapterError(f"{folder / weights.CONFIG} names another base than {store.MANIFEST}")
    if manifest["recipe"]["base"]["source"] != base["source"] or base["hub_id"] not in (None, _hub_id(base["source"])):
        raise AdapterError(f"{folder / store.MANIFEST} names one base, and has another loaded")


def check_described(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise AdapterError where `adapter_config.json` describes another adapter than recipe and weights, as far as that
    shows without the base; `load` finds the rest."""
    recipe = recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}")
    methods.agreement.check_alone(folder, recipe.adapter, manifest["head"], manifest["files"][methods.weights.CONFIG])


def _hub_id(source: str) -> str:
    """What a recipe's base is called on the Hub, if it is there."""
    return bases.BASES[source].hub_id if source in bases.BASES else source


def check_base(manifest: dict[str, Any], found: bases.Fingerprint, may_differ: Collection[str] = ()) -> bases.Mismatch:
    """How the base that was found differs from the one that a stored adapter was trained on. Raises AdapterError, field
    by field, where it does in others than those that `may_differ`."""
    told = manifest["base"]
    mismatch = found.mismatch(bases.Fingerprint(**told["fingerprint"]))
    if refused := {field: of for field, of in mismatch.items() if field not in may_differ}:
        raise AdapterError(
            f"{manifest['name']} was trained on another base ({told['source']}, {told['origin']}). They differ in: "
            + "; ".join(bases.in_words(refused))
        )
    return mismatch


def attach_again(session: Session, source: Source) -> Loaded:
    """An adapter that left the session's base, on it again. Raises AdapterError, also where it is no more the same."""
    return attach_saved(session, read_saved(source.folder, session.base, source, session.may_differ))


def attach_saved(session: Session, saved: Saved) -> Loaded:
    """A saved adapter on the session's base, not yet in the session; if its weights do not fit, it is taken off."""
    task = tasks.get(saved.recipe.task).with_labels(saved.manifest["labels"])
    try:
        _check_size(session, saved)
        loaded = session.attach(task, saved.recipe.adapter.stored(), saved.recipe.data.max_length)
    except (BaseError, DataError) as error:  # the base is the right one, so the recipe is not
        raise AdapterError(f"{saved.source.folder / store.MANIFEST} does not fit its base: {error}") from None
    try:
        methods.agreement.check_attached(saved.source.folder, loaded.peft_config())
        loaded.load_state(methods.weights.read(saved.source.folder, loaded.tensors, saved.source.sha256))
    except BaseException:
        if loaded.adapter is not None:
            methods.detach(session.base.model, loaded.adapter)
        raise
    return loaded


def _check_size(session: Session, saved: Saved) -> None:
    """Raise AdapterError where the adapter would take more memory than its file fills, before any of it is taken."""
    shapes, model = methods.weights.shapes(saved.source.folder), session.base.model
    held = sum(math.prod(shape) for shape in shapes.values())
    head = len(saved.manifest["labels"]) * width_of(model) if saved.recipe.task.has_head else 0
    least = methods.least_numbers(model, saved.recipe.adapter.stored()) + head
    if held < least:
        raise AdapterError(
            f"{saved.source.folder / methods.weights.WEIGHTS} holds {held:,} numbers, and the recipe in "
            f"{store.MANIFEST} asks for {least:,} at least: it is not the file of such an adapter"
        )
