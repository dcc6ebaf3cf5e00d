"""From a stored adapter to one on the base: its folder is read and checked before anything is attached."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import bases, methods, store, tasks
from pefttune.errors import AdapterError
from pefttune.inference.loaded import Loaded
from pefttune.inference.shelf import Source
from pefttune.recipe import Recipe, recipe_from_mapping

if TYPE_CHECKING:
    from pefttune.inference.session import Session


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
    mismatch = check_base(manifest, base.fingerprint, may_differ)
    recipe = recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}")
    return Saved(manifest, recipe, source, mismatch)


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
    loaded = session.attach(task, saved.recipe.adapter.stored(), saved.recipe.data.max_length)
    try:
        loaded.load_state(methods.weights.read(saved.source.folder, loaded.tensors, saved.source.sha256))
    except BaseException:
        if loaded.adapter is not None:
            methods.detach(session.base.model, loaded.adapter)
        raise
    return loaded
