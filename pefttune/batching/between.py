"""What a model makes of a batch on its way: the hidden states behind several of its layers, by one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from pefttune.batching.batch import Batch
from pefttune.batching.forward import inputs_of


def stack_of(model: Any) -> nn.ModuleList | None:
    """The model's layers, wherever it keeps them; None if it has no such list."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.base_model.modules() if isinstance(module, nn.ModuleList))
    return next((each for each in lists if len(each) == count), None)


@torch.no_grad()
def states_behind(model: Any, batch: Batch, layers: Sequence[int]) -> list[Tensor]:
    """Hidden states (N, D) of the batch's scored rows behind each of these layers, counted from 1. Behind the last one
    they are those that a head reads, normed where the model does so."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        found[layer] = hidden.flatten(0, 1)[batch.rows_N]

    stack = stack_of(model) or nn.ModuleList()
    with ExitStack() as hooks:
        for layer in layers:
            if layer < len(stack):
                hook = stack[layer - 1].register_forward_hook(lambda _, __, output, at=layer: keep(at, output))
                hooks.callback(hook.remove)
        last = model.base_model(**inputs_of(batch)).last_hidden_state.flatten(0, 1)[batch.rows_N]
    return [found.get(layer, last) for layer in layers]
