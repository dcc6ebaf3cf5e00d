"""May answers stand side by side behind one prompt? Found out by running a few tokens both ways, once for each model.

Recurrent layers (Mamba, LFM2, Granite hybrids) carry one answer into the next whatever the mask says, and a mask of
one's own replaces a sliding window (Mistral, Gemma). For these each answer gets a prompt of its own.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pefttune.batching.collate import collate
from pefttune.batching.forward import hidden_rows
from pefttune.data import Example
from pefttune.errors import BaseError

_SHAREABLE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

PROMPT, ANSWER = (5, 6, 7, 8), tuple(range(25, 41))
ONE, OTHER = tuple(range(9, 25)), tuple(range(41, 57))

# Relative distance of hidden states, side by side against one by one. The same sums in another order: 1e-6 in float32,
# but 0.04 in bfloat16 through 30 layers, which is why a leak is sought by equality instead.
TOLERANCE = 1e-3
TOLERANCE_OF_HALF = 0.1


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
        one, other, alone = (_rows(model, answer) for answer in (ONE, OTHER, ANSWER))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BaseError(f"{name} cannot be a base: it does not run on ids with mask and positions ({error})") from None
    if not _same(model, one[0], other[0]):  # the prompt's last row, before two different answers
        raise BaseError(f"{name} cannot be a base: what follows a token changes it, so it is no decoder")
    if _has_window(model.config.get_text_config()):
        return False
    try:
        beside_one, beside_other = (_rows(model, answer, ANSWER)[len(answer) :] for answer in (ONE, OTHER))
    except (TypeError, ValueError, RuntimeError):
        return False
    exact = model.dtype == torch.float32 and not getattr(model, "is_loaded_in_8bit", False)
    near = _distance(beside_one, alone) <= (TOLERANCE if exact else TOLERANCE_OF_HALF)
    return near and _same(model, beside_one, beside_other)


def _same(model: Any, a: Tensor, b: Tensor) -> bool:
    # LLM.int8() picks the columns it computes in 16 bit by all tokens of the batch, so no row is quite its own.
    if getattr(model, "is_loaded_in_8bit", False):
        return _distance(a, b) <= TOLERANCE_OF_HALF
    return a.equal(b)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def _rows(model: Any, *answers: tuple[int, ...]) -> Tensor:
    """Hidden states that predict each answer's tokens, the answers side by side."""
    example = Example(PROMPT, answers, target=0, origin="probe")
    return hidden_rows(model, collate([example], 0, every_answer=True, device=model.device, dtype=model.dtype))


def _has_window(config: Any) -> bool:
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return window is not None or getattr(config, "attention_chunk_size", None) is not None
