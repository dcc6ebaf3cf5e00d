"""What the frozen layers below an adapter make of examples: computed once by a session, and kept in the cache on
disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pefttune.batching import Boundary, Outputs, open_boundary, open_outputs
from pefttune.data import Example, cache_dir
from pefttune.inference.scoring import states_by_batch

if TYPE_CHECKING:
    from pefttune.inference.session import Session


def boundary_of(
    session: Session,
    name: str,
    examples: Sequence[Example],
    *,
    every_answer: bool,
    notice: Callable[[str], None],
    progress: Callable[[int], None] = lambda done: None,
) -> Boundary | Outputs | None:
    """What enters the lowest layer that the adapter `name` changes, for these examples, from the cache on disk, or
    the base's outputs where it changes none; None where there is nothing to keep."""
    adapter, is_ragged = session.use(name).adapter, bool(session.collator.is_ragged(examples))
    folder = cache_dir() / "boundaries"
    if adapter is None or not examples:
        return None
    if adapter.first_layer is None:
        return open_outputs(
            folder,
            session.base.model,
            examples,
            partial(states_by_batch, session),
            ragged=is_ragged,
            base_digest=session.base.fingerprint.digest,
            max_tokens=session.max_batch_tokens,
            notice=notice,
            progress=progress,
        )
    if not is_ragged or not adapter.first_layer:
        return None
    return open_boundary(
        folder,
        session.base.model,
        adapter.first_layer,
        examples,
        every_answer=every_answer,
        causal=session.causal,
        base_digest=session.base.fingerprint.digest,
        max_tokens=session.max_batch_tokens,
        notice=notice,
        progress=progress,
    )
