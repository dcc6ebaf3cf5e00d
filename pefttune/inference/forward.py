"""Passes of adapters that are on a base: of one, or of several at once, each on the rows of its own batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from pefttune import methods
from pefttune.batching import Batch, hidden_rows, join, log_likelihoods, logits_are_linear, target_log_likelihoods
from pefttune.inference.loaded import Loaded


def outputs_of(model: Any, loaded: Loaded, batch: Batch) -> Tensor:
    """What the task of the adapter in use scores: its head's logits (N, C), or the log-likelihoods (N,) of target
    tokens."""
    if loaded.head is None:
        return target_log_likelihoods(model, batch)
    logits_NC: Tensor = loaded.head(hidden_rows(model, batch))
    return logits_NC


def can_share(model: Any, loaded: Sequence[Loaded]) -> bool:
    """Whether these adapters can go through the base together, in a ragged batch."""
    mix = all(adapter.mixes for one in loaded for adapter in one.acting)
    return mix and (all(one.head for one in loaded) or logits_are_linear(model))


def outputs_together(model: Any, loaded: Sequence[Loaded], batches: Sequence[Batch]) -> list[Tensor]:
    """As `outputs_of`, for a batch of each adapter, by one pass. Leaves none acting: the rows are this batch's."""
    ends = list(accumulate(batch.n_tokens for batch in batches))
    rows = [slice(end - batch.n_tokens, end) for end, batch in zip(ends, batches, strict=True)]
    acting = [(adapter, own) for one, own in zip(loaded, rows, strict=True) for adapter in one.acting]
    methods.activate(model, *(adapter for adapter, _ in acting), rows=[own for _, own in acting])
    try:
        own = hidden_rows(model, join(batches)).split([len(batch.rows_N) for batch in batches])
    finally:
        methods.activate(model)
    return [
        one.head(rows_ND) if one.head else log_likelihoods(model, rows_ND, batch.targets_N)
        for one, rows_ND, batch in zip(loaded, own, batches, strict=True)
    ]
