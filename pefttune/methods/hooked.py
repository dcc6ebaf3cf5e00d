"""Adapters that act from hooks on modules of the base, and stand outside of its tree of modules.

So the base keeps its modules whatever they are, quantized or wrapped by LoRA, before or after; a wrapper of their own
would have to be looked through by every method that replaces layers. One hook serves all adapters at a place, each on
its own rows: another adapter is a pointer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pefttune.methods.blocks import Place, Reads
from pefttune.methods.places import FILE_PREFIX, layer_of, path_in_class
from pefttune.methods.protocol import Adapter


@dataclass(frozen=True, slots=True)
class Acting:
    """An adapter that acts: its layers by place, the factor of their output, and the rows of the batch that are its
    own."""

    layers: Mapping[Place, nn.Module]
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


class HookedAdapter(Adapter):
    """An adapter whose `layers`, frozen and in eval mode, each read what their place says; `scaling` times what they
    make of it is added there."""

    mixes = True

    def __init__(self, model: Any, layers: Mapping[Place, nn.Module], scaling: float = 1.0) -> None:
        self._model, self._layers, self._scaling = model, layers, scaling
        self._hooks = _on.setdefault(model, Hooks())
        for place in layers:
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
        """The lowest of the base's layers that it changes; 0 also where that is not known."""
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
        """Let no such adapter act in the model's forward."""
        if model in _on:
            _on[model].acting.clear()

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


def _added(y: Tensor, x: Tensor, here: list[tuple[nn.Module, Acting]]) -> Tensor:
    """y plus, on each adapter's rows, what it makes of x. As -(-y - u), which is y + u to the bit, but for a -0 of y,
    which 0 added would make 0, and which this leaves."""
    negative, x_RD = y.flatten(0, -2).neg(), x.flatten(0, -2)
    for layer, one in here:
        negative[one.rows].sub_(layer(x_RD[one.rows]), alpha=one.scaling)
    return negative.neg().view_as(y)
