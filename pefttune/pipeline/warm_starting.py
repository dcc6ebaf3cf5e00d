"""A training that begins with the weights of a stored adapter instead of new ones (`adapter.warm_start`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pefttune.errors import AdapterError
from pefttune.pipeline.parents import Parent, read_parent
from pefttune.pipeline.telling import tell
from pefttune.recipe import Recipe
from pefttune.recipe.adapters import Lora

if TYPE_CHECKING:
    from pefttune.inference import Loaded, Session
    from pefttune.training import Notify


def parent_of(recipe: Recipe) -> Parent | None:
    """The adapter of the recipe's store that training begins with, if it names one. Raises AdapterError."""
    name = getattr(recipe.adapter, "warm_start", None)
    if name is None:
        return None
    parent = read_parent(Path(recipe.output.store), name)
    if (method := parent.recipe.adapter.method) != recipe.adapter.method:
        raise AdapterError(
            f"adapter.warm_start: {parent.called} is a {method}, and a {recipe.adapter.method} cannot begin with it"
        )
    return parent


def begin_with(session: Session, name: str, section: Lora, parent: Parent, notify: Notify) -> None:
    """Give the new adapter `name` of the session, attached by `section`, the weights of its parent; its head's too
    where they mean the same, else a notice says that the head is new. Raises AdapterError for a parent of another base
    or shape."""
    from pefttune import methods

    ours, called = session[name], f"warm start of {name}"
    theirs = session.load(parent.folder, name=called)
    _check_shape(ours, theirs, section, parent)
    assert ours.adapter is not None
    keys = set(ours.adapter.parameters)
    if ours.head is not None:
        reason = _other_head(ours, theirs)
        if reason is None:
            keys |= ours.parameters.keys()
        else:
            tell(notify, f"training begins with the weights of {parent.called}, but its head is new: {reason}")
    state = theirs.state()
    methods.weights.fill({key: ours.parameters[key] for key in keys}, state)
    session.remove(called)


def _check_shape(ours: Loaded, theirs: Loaded, section: Lora, parent: Parent) -> None:
    from pefttune import methods

    assert isinstance(ours.adapter, methods.LoraAdapter)
    assert isinstance(theirs.adapter, methods.LoraAdapter)
    mine, others = ours.adapter.updates, theirs.adapter.updates
    its = parent.recipe.adapter
    assert isinstance(its, Lora)
    told = f"adapter.warm_start: {parent.called} has another shape than this recipe asks for:"
    if strangers := sorted(mine.keys() ^ others.keys()):
        where = "only the recipe" if strangers[0] in mine else f"only {parent.called}"
        raise AdapterError(
            f"{told} {strangers[0]} is adapted by {where}; set adapter.layers and adapter.target_modules"
        )
    for layer, (a, _, scale) in mine.items():
        its_a, _, its_scale = others[layer]
        if len(a) != len(its_a):
            where, key = _whose(layer, "rank_pattern", "r", section, its)
            raise AdapterError(f"{told} its r{where} is {len(its_a)}, here {len(a)}; set adapter.{key}")
        if scale != its_scale:
            where, key = _whose(layer, "alpha_pattern", "lora_alpha", section, its)
            raise AdapterError(
                f"{told} its updates{where} are multiplied by {its_scale:g}, here by {scale:g}; set adapter.{key} and "
                "adapter.use_rslora"
            )


def _whose(layer: str, pattern: str, key: str, *sections: Lora) -> tuple[str, str]:
    """Of which module alone that is said, if either section has one of its own for it, and the key that says so."""
    own = [name for section in sections for name in getattr(section, pattern) if layer.endswith(f".{name}")]
    return (f" of {own[0]}", pattern) if own else ("", key)


def _other_head(ours: Loaded, theirs: Loaded) -> str | None:
    """Why the head cannot be taken over; None where it can."""
    if theirs.head is None:
        return "that adapter has none"
    if ours.task.labels != theirs.task.labels:
        return f"its labels are {', '.join(theirs.task.labels)}"
    shapes, others = ({key: p.shape for key, p in one.head.by_key().items()} for one in (ours, theirs) if one.head)
    return None if shapes == others else "it has another shape"
