"""Stored adapters whose fusion is trained: found before a base is read, and taken over as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pefttune.errors import AdapterError
from pefttune.pipeline.parents import Parent, check_same_base, read_parent
from pefttune.recipe import Recipe
from pefttune.recipe.adapters import Fusion, Lora

if TYPE_CHECKING:
    from torch import Tensor

    from pefttune.inference import Session


def with_members(recipe: Recipe, section: Fusion) -> tuple[Recipe, tuple[Parent, ...]]:
    """The recipe with versions and sections of the members in it, by which the fusion is attached, and the members.
    Raises AdapterError where one is not in the store, is named twice or cannot be fused, where their bases differ, and
    where the recipe has other sections already."""
    members = tuple(read_parent(Path(recipe.output.store), name) for name in section.adapters)
    called = tuple(member.called for member in members)
    if twice := [one for one in called if called.count(one) > 1]:
        raise AdapterError(f"adapter.adapters: {twice[0]} is named twice; name different adapters")
    for member in members:
        if not isinstance(member.recipe.adapter, Lora):
            method = member.recipe.adapter.method
            raise AdapterError(f"adapter.adapters: {member.called} is a {method}: only lora adapters can be fused")
    check_same_base(members)
    sections = tuple(member.recipe.adapter for member in members)
    if section.members not in ((), sections):
        raise AdapterError(
            f"adapter.members: {', '.join(called)} in {recipe.output.store} have other `adapter` sections; leave the "
            "key out, so that theirs are taken"
        )
    settled = section.model_copy(update={"adapters": called, "members": sections})
    return recipe.model_copy(update={"adapter": settled}), members


def weights_of(session: Session, members: Sequence[Parent]) -> list[Mapping[str, Tensor]]:
    """What the members' files hold but for their heads. Raises AdapterError for those of another base."""
    found = []
    for member in members:
        called = f"member {member.called}"
        adapter = session.load(member.folder, name=called).adapter
        assert adapter is not None
        found.append(adapter.state())
        session.remove(called)
    return found
