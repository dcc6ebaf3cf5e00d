"""From a batch to the logits that somebody scores, and no others."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pefttune.batching.collate import Batch

_LINEAR: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def row_logits(model: Any, batch: Batch, head: nn.Linear | None = None) -> Tensor:
    """Logits (N, K) in float32 of the batch's scored rows: of `head` (K classes) or of the language model (K tokens).

    Only scored rows go through the output layer, which for a small model is most of the work otherwise.
    """
    output = model.get_output_embeddings() if head is None else head
    if head is None and not logits_are_linear(model):
        logits_BTK: Tensor = model(**_inputs(batch)).logits
        return logits_BTK.flatten(0, 1)[batch.rows_N].float()
    rows_ND = hidden_rows(model, batch)
    logits_NK: Tensor = output(rows_ND if head is None else rows_ND.to(head.weight.dtype))
    return logits_NK.float()


def hidden_rows(model: Any, batch: Batch) -> Tensor:
    """Last hidden states (N, D) of the batch's scored rows."""
    hidden_BTD: Tensor = model.base_model(**_inputs(batch)).last_hidden_state
    return hidden_BTD.flatten(0, 1)[batch.rows_N]


def logits_are_linear(model: Any) -> bool:
    """Whether the model's logits are just its output layer applied to its last hidden state.

    Gemma caps them, Cohere and Granite scale them; those models keep their own forward. Found out by running four
    tokens both ways, once for each model.
    """
    if model not in _LINEAR:
        _LINEAR[model] = _compare(model)
    return _LINEAR[model]


@torch.no_grad()
def _compare(model: Any) -> bool:
    ids = torch.arange(4, device=model.device)[None]
    output = model.get_output_embeddings()
    if output is None:
        return False
    ours = output(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return torch.equal(ours, model(input_ids=ids, use_cache=False).logits)


def _inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.ids_BT,
        "attention_mask": batch.mask,
        "position_ids": batch.positions_BT,
        "use_cache": False,
    }
