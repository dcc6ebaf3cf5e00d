"""Where a model can be cut: its decoder layers, what enters one of them, and the model from there on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

# What treats each row by itself, by the names that decoders give it.
ROW_BY_ROW = ("q_proj", "o_proj", "mlp")


class _ReachedError(Exception):
    """Carries what entered the layer out of the forward pass."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def decoder_layers(model: Any) -> tuple[str, nn.ModuleList] | None:
    """The list of the model's layers and the name it has in `model.base_model`; None if it has no such list."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.base_model.named_children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    return None


@torch.no_grad()
def entering(model: Any, layer: int, inputs: dict[str, Any]) -> Tensor:
    """The hidden states (T, D) that enter `layer`, for a ragged batch; the layers from there on are not run."""
    found = decoder_layers(model)
    assert found is not None

    def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _ReachedError(args[0])

    handle = found[1][layer].register_forward_pre_hook(stop)
    try:
        model.base_model(**inputs)
    except _ReachedError as reached:
        return reached.hidden[0]
    finally:
        handle.remove()
    raise RuntimeError(f"layer {layer} was never reached")


def from_layer(model: Any, layer: int) -> Any:
    """`model.base_model` without the layers below `layer`: it shares every other module and every weight."""
    found = decoder_layers(model)
    assert found is not None
    name, layers = found
    return _with(model.base_model, {name: nn.ModuleList(layers[layer:])})


def with_rows_of_last(model: Any, base: Any, rows: Tensor) -> Any:
    """`base` (a model's base, or the upper part of it), its last layer computing only these rows where it can.

    Keys and values are needed of all rows; queries, what attention gives, and the feed-forward block only of those that
    somebody reads. The others are zero there. It shares every weight.
    """
    found = decoder_layers(model)
    if found is None:
        return base
    name = found[0]
    layers = base._modules[name]
    return _with(base, {name: nn.ModuleList([*layers[:-1], _narrowed(layers[-1], rows)])})


class OnlyRows(nn.Module):
    """A module that treats each row by itself, run on some of them; the others are zero."""

    def __init__(self, module: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.module, self.rows = module, rows

    def forward(self, x: Tensor) -> Tensor:
        """Of (1, T, D), (1, T, width of the module's output)."""
        part: Tensor = self.module(x.index_select(1, self.rows))
        return part.new_zeros(1, x.shape[1], part.shape[-1]).index_copy(1, self.rows, part)


def _narrowed(module: nn.Module, rows: Tensor) -> nn.Module:
    changed: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if name in ROW_BY_ROW:
            changed[name] = OnlyRows(child, rows)
        elif any(inner.rpartition(".")[2] in ROW_BY_ROW for inner, _ in child.named_modules()):
            changed[name] = _narrowed(child, rows)
    return _with(module, changed) if changed else module


def _with(module: Any, changed: dict[str, nn.Module]) -> Any:
    """A shallow copy of a module in which some children are others."""
    changed_module = copy.copy(module)
    changed_module._modules = {**module._modules, **changed}
    return changed_module
