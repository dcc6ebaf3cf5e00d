"""Modules that stand in the places of a base's own only while an adapter acts."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# What was displaced, by name, in the order in which it was: a place may have been taken more than once.
_displaced: WeakKeyDictionary[nn.Module, list[tuple[str, nn.Module]]] = WeakKeyDictionary()


def put(model: Any, name: str, module: nn.Module) -> None:
    """Let `module` stand at `name`, until `put_back`."""
    _displaced.setdefault(model, []).append((name, model.get_submodule(name)))
    model.set_submodule(name, module)


def put_back(model: Any) -> None:
    """Put back what stood in the places that were taken."""
    for name, module in reversed(_displaced.pop(model, [])):
        model.set_submodule(name, module)
