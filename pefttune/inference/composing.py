"""Adapters of a session put together at inference: stacked on the same rows, or averaged in what they answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pefttune.data import Example
from pefttune.errors import AdapterError
from pefttune.inference.loaded import Loaded, Purpose
from pefttune.inference.prompted import PromptedEncoder
from pefttune.tasks.protocol import Averages

if TYPE_CHECKING:
    from pefttune.inference.session import Session


@dataclass(frozen=True)
class Average(Purpose):
    """An ensemble: what several adapters of a session say of a row, averaged with weights that sum to 1."""

    parts: tuple[str, ...]
    weights: tuple[float, ...]


def stack(session: Session, names: Sequence[str]) -> Loaded:
    """Adapters that act together, in order, for the task and with the head of the last. Raises AdapterError."""
    _check_parts(session, names)
    loaded = [session[name] for name in names]
    for name, one in zip(names, loaded, strict=True):
        if one.stacked or one.adapter is None:
            raise AdapterError(f"{name!r} cannot be stacked: it has no update of its own; name the adapters themselves")
        if not one.adapter.mixes:
            raise AdapterError(
                f"{name!r} cannot be stacked: its method puts layers in the places of the base's, so that no other "
                "adapter can act beside it; those that share passes (lora, for one) can"
            )
        if one.adapter.virtual_ids and one is not loaded[-1]:
            raise AdapterError(
                f"{name!r} cannot be stacked: its virtual tokens stand in front of its own texts only; name it last"
            )
    if away := [name for name in names if name not in session.resident]:
        raise AdapterError(f"{away[0]!r} cannot be stacked: max_adapter_mib leaves no room for all of the adapters")
    last = loaded[-1]
    acting = tuple(one.adapter for one in loaded if one.adapter is not None)
    return Loaded(last.task, last.encoder, last.max_length, head=last.head, stacked=acting)


def average(session: Session, names: Sequence[str], weights: Sequence[float] | None) -> Average:
    """An ensemble of adapters that are asked alike. Raises AdapterError where their answers cannot be averaged."""
    _check_parts(session, names)
    shares = _shares(weights, len(names))
    first, *others = [session.purpose(name) for name in names]
    if not isinstance(first.task, Averages):
        raise AdapterError(f"{names[0]!r} does {first.task.name}: answers that are written cannot be averaged")
    if isinstance(first, Average):
        raise AdapterError(f"{names[0]!r} is an average already; name the adapters themselves")
    for name, other in zip(names[1:], others, strict=True):
        own = any(isinstance(one.encoder, PromptedEncoder) or one.vocabulary for one in (first, other))
        alike = other.task == first.task and other.max_length == first.max_length
        if own or not alike or isinstance(other, Average):
            raise AdapterError(
                f"{names[0]!r} and {name!r} are not asked alike: to be averaged, adapters need the same task, labels, "
                "instruction and data.max_length, and no virtual or new tokens"
            )
    return Average(first.task, first.encoder, first.max_length, tuple(names), shares)


def _check_parts(session: Session, names: Sequence[str]) -> None:
    if isinstance(names, str) or len(names) < 2:
        raise AdapterError("give the names of two adapters of the session at least, as a list")
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise AdapterError(f"{twice[0]!r} is named twice")
    for name in names:
        session.purpose(name)


def _shares(weights: Sequence[float] | None, n: int) -> tuple[float, ...]:
    """Weights that sum to 1."""
    weights = [1.0] * n if weights is None else list(weights)
    if len(weights) != n:
        raise AdapterError(f"there are {n} adapters, so give {n} weights, not {len(weights)}")
    numbers = all(isinstance(weight, int | float) for weight in weights)
    if not numbers or not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        raise AdapterError(f"weights {weights} are no shares: each must be 0 or greater, their sum finite and not 0")
    return tuple(weight / sum(weights) for weight in weights)


def mixed_scores(session: Session, asked: Sequence[tuple[str, Example]]) -> list[Tensor]:
    """The scores of examples that each name an adapter or an average: every part of an average is asked, in the passes
    that all share, and their answers are averaged."""
    from pefttune.inference import scoring

    purposes = [session.purpose(name) for name, _ in asked]
    parts = [one.parts if isinstance(one, Average) else (name,) for one, (name, _) in zip(purposes, asked, strict=True)]
    each = [(part, example) for own, (_, example) in zip(parts, asked, strict=True) for part in own]
    found = iter(scoring.mixed_scores(session, each))
    result = []
    for purpose, own in zip(purposes, parts, strict=True):
        scores = [next(found) for _ in own]
        if isinstance(purpose, Average) and isinstance(purpose.task, Averages):
            scores = [purpose.task.average(scores, purpose.weights)]
        result += scores
    return result
