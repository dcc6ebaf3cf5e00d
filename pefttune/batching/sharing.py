"""May answers stand side by side behind one prompt? Found out by running a few tokens both ways, once for each model.

Recurrent layers (Mamba, LFM2, Granite hybrids) carry one answer into the next whatever the mask says, and a mask of
one's own replaces a sliding window (Mistral, Gemma). For these each answer gets a prompt of its own.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pefttune.batching.collate import Batch, collate
from pefttune.batching.forward import hidden_rows
from pefttune.data import Example
from pefttune.errors import BaseError

_SHAREABLE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

# Relative distance of hidden states. The same sums in another order differ by 0.01 in bfloat16; a leak by 0.1 and more.
TOLERANCE = 0.05
PROBE = Example(prompt=(5, 6, 7, 8), answers=((9, 10), (11, 12)), target=1, origin="probe")


def prompts_can_be_shared(model: Any) -> bool:
    """Whether side by side gives what one by one gives.

    Raises BaseError for a model that is no decoder or takes no positions: its answers could not be compared at all.
    """
    if model not in _SHAREABLE:
        _SHAREABLE[model] = _try(model)
    return _SHAREABLE[model]


@torch.no_grad()
def _try(model: Any) -> bool:
    name = type(model).__name__
    try:
        alone = hidden_rows(model, _batch(model, every_answer=False))  # the last prompt row, then the answer's first
        prompt = hidden_rows(model, _batch(model, every_answer=False, answers=()))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BaseError(f"{name} cannot be a base: it does not run on ids with mask and positions ({error})") from None
    if not _close(alone[:1], prompt):
        raise BaseError(f"{name} cannot be a base: what follows a token changes it, so it is no decoder")
    if _has_window(model.config.get_text_config()):
        return False
    try:
        together = hidden_rows(model, _batch(model, every_answer=True))
    except (TypeError, ValueError, RuntimeError):
        return False
    return _close(alone, together[-len(alone) :])


def _batch(model: Any, *, every_answer: bool, answers: tuple[tuple[int, ...], ...] = PROBE.answers) -> Batch:
    example = Example(PROBE.prompt, answers, PROBE.target, PROBE.origin)
    return collate([example], 0, every_answer=every_answer, device=model.device, dtype=model.dtype)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a.float() - b.float()).norm() <= TOLERANCE * b.float().norm())


def _has_window(config: Any) -> bool:
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return window is not None or getattr(config, "attention_chunk_size", None) is not None
