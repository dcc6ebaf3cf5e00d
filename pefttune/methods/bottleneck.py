"""Bottleneck adapters (arXiv:1902.00751, arXiv:2005.00247, arXiv:2110.04366): two small layers with a non-linearity
between, whose output is added to that of attention or of the feed-forward part. PEFT has none.

They act from hooks on the modules that give that output, and stand outside of the base's tree of modules. So the base
keeps its modules whatever they are, quantized or wrapped by LoRA, before or after; a wrapper of their own would have to
be looked through by every method that replaces layers. One hook serves all adapters at a place, each on its own rows:
another adapter is a pointer. Weights are float32 masters, computed in the dtype of what they read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu
from torch.utils.hooks import RemovableHandle

from pefttune.errors import BaseError
from pefttune.methods.blocks import Place, Reads, places_of
from pefttune.methods.places import FILE_PREFIX, layer_of, path_in_class
from pefttune.methods.protocol import Adapter
from pefttune.recipe.adapters import Bottleneck

NON_LINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu, "silu": silu, "tanh": torch.tanh}
SCALING_OF_PARALLEL = 4.0  # arXiv:2110.04366


class BottleneckLayer(nn.Module):
    """An adapter at one place, frozen, in eval mode, without effect: `adapter_up` is zero. Its parameters are named as
    AdapterHub's are. Shapes: R rows, D their width, m the bottleneck's."""

    def __init__(self, width: int, inner: int, non_linearity: str, dropout: float, device: torch.device) -> None:
        super().__init__()
        down, up = nn.Linear(width, inner, device=device), nn.Linear(inner, width, device=device)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))  # as LoRA's A, and the others zero: arXiv:2110.04366
        for parameter in (down.bias, up.weight, up.bias):
            nn.init.zeros_(parameter)
        self.adapter_down, self.adapter_up = nn.Sequential(down), up
        self._non_linearity, self._dropout = NON_LINEARITIES[non_linearity], nn.Dropout(dropout)
        self.eval().requires_grad_(False)

    def forward(self, x_RD: Tensor) -> Tensor:
        """up(non_linearity(down(x))), (R, D)."""
        down, down_bias, up, up_bias = (parameter.to(x_RD.dtype) for parameter in self.parameters())
        h_Rm: Tensor = self._dropout(self._non_linearity(linear(x_RD, down, down_bias)))
        return linear(h_Rm, up, up_bias)


@dataclass(frozen=True, slots=True)
class Acting:
    """An adapter that acts: its layers by place, the factor of their output, and the rows of the batch that are its
    own."""

    layers: dict[Place, BottleneckLayer]
    scaling: float
    rows: slice


@dataclass
class Hooks:
    """The hooks on a model, one for each place where some adapter is, and the adapters that act."""

    acting: list[Acting] = field(default_factory=list)
    handles: dict[Place, RemovableHandle] = field(default_factory=dict)
    users: Counter[Place] = field(default_factory=Counter)

    def add(self, model: nn.Module, place: Place) -> None:
        """One adapter more at `place`."""
        self.users[place] += 1
        if place not in self.handles:
            self.handles[place] = _hook(model.get_submodule(place.module), place, self.acting)

    def remove(self, place: Place) -> None:
        """One adapter less at `place`."""
        self.users[place] -= 1
        if not self.users[place]:
            self.handles.pop(place).remove()


_on: WeakKeyDictionary[nn.Module, Hooks] = WeakKeyDictionary()


class BottleneckAdapter(Adapter):
    """One bottleneck adapter on a model, frozen until `train(True)`. See `pefttune.methods.protocol.Adapter`."""

    mixes = True

    def __init__(self, model: Any, config: Bottleneck) -> None:
        places = places_of(model, config.placement, config.layers)
        width: int = model.config.get_text_config().hidden_size
        inner = width // config.reduction_factor
        if not inner:
            raise BaseError(
                f"adapter.reduction_factor: {config.reduction_factor} leaves nothing of the base's width of {width}; "
                f"take {width} or less"
            )
        self._model, self._section, self._hooks = model, config, _on.setdefault(model, Hooks())
        default = SCALING_OF_PARALLEL if config.placement == "parallel" else 1.0
        self._scaling = default if config.scaling is None else config.scaling
        self._layers = {
            place: BottleneckLayer(width, inner, config.non_linearity, config.dropout, model.device) for place in places
        }
        for place in self._layers:
            self._hooks.add(model, place)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by file key."""
        prefix = FILE_PREFIX + path_in_class(self._model)
        return {
            f"{prefix}{place.key}.{name}": parameter
            for place, layer in self._layers.items()
            for name, parameter in layer.named_parameters()
        }

    @property
    def first_layer(self) -> int:
        """The lowest of the base's layers that it changes."""
        return min(layer_of(place.module) for place in self._layers)

    def train(self, mode: bool) -> None:
        """Let its parameters learn and its dropout drop, or neither."""
        for layer in self._layers.values():
            layer.train(mode).requires_grad_(mode)

    def activate(self, rows: slice = slice(None)) -> None:
        """Act on these rows of the batch, besides the adapters that act already."""
        self._hooks.acting.append(Acting(self._layers, self._scaling, rows))

    @staticmethod
    def deactivate(model: nn.Module) -> None:
        """Let no bottleneck adapter act in the model's forward."""
        if model in _on:
            _on[model].acting.clear()

    def config(self) -> dict[str, Any]:
        """What a reader needs to rebuild it. PEFT refuses the type, which it does not know."""
        prefix = path_in_class(self._model)
        return {
            "peft_type": "BOTTLENECK_OF_PEFTTUNE",
            "task_type": "CAUSAL_LM",
            "placement": self._section.placement,
            "reduction_factor": self._section.reduction_factor,
            "non_linearity": self._section.non_linearity,
            "scaling": self._scaling,
            "dropout": self._section.dropout,
            "hidden_size": self._model.config.get_text_config().hidden_size,
            "target_modules": [prefix + place.key for place in self._layers],
        }

    def detach(self) -> None:
        """Take it off the base, where no adapter acts."""
        for place in self._layers:
            self._hooks.remove(place)
        self._layers = {}


def _hook(module: nn.Module, place: Place, acting: list[Acting]) -> RemovableHandle:
    """Let those of the `acting` adapters that are at `place` act in `module`."""

    def changed(y: Tensor, x: Tensor) -> Tensor | None:
        here = [(one.layers[place], one) for one in acting if place in one.layers]
        return _added(y, x, here) if here else None

    if place.reads is Reads.RESIDUAL:

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            residual = changed(args[1], args[1])
            return None if residual is None else (args[0], residual, *args[2:])

        return module.register_forward_pre_hook(before)

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        y = output[0] if isinstance(output, tuple) else output
        new = changed(y, args[0] if place.reads is Reads.INPUT else y)
        return (new, *output[1:]) if isinstance(output, tuple) and new is not None else new

    return module.register_forward_hook(after)


def _added(y: Tensor, x: Tensor, here: list[tuple[BottleneckLayer, Acting]]) -> Tensor:
    """y plus, on each adapter's rows, what it makes of x. As -(-y - u), which is y + u to the bit, but for a -0 of y,
    which 0 added would make 0, and which this leaves."""
    negative, x_RD = y.flatten(0, -2).neg(), x.flatten(0, -2)
    for layer, one in here:
        negative[one.rows].sub_(layer(x_RD[one.rows]), alpha=one.scaling)
    return negative.neg().view_as(y)
