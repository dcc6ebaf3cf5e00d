"""Methods from other packages: the class of adapters that a section from an entry point names."""

from __future__ import annotations

from typing import Any

from pefttune.errors import BaseError
from pefttune.methods.protocol import Adapter

NEEDED = ("mixes", "parameters", "first_layer", "train", "activate", "config", "detach")
"""What an adapter does not inherit."""


def class_of(section: Any) -> type[Adapter]:
    """What the section's `adapter_class()` gives. Raises BaseError, which names the package, where that is no class of
    adapters."""
    origin = f"adapter.method: {section.method} comes from the package {type(section).__module__.partition('.')[0]}"
    try:
        kind = section.adapter_class()
    except Exception as error:  # whatever another package's code raises
        raise BaseError(f"{origin}, and cannot be loaded ({type(error).__name__}: {error})") from error
    if fault := _fault(kind):
        raise BaseError(f"{origin}, and {kind!r} is no pefttune.methods.Adapter: it {fault}")
    found: type[Adapter] = kind
    return found


def _fault(kind: Any) -> str:
    """What it lacks to be a class of adapters; empty where nothing."""
    if not isinstance(kind, type) or Adapter not in kind.__mro__:
        return "does not inherit from it"
    own = {
        name
        for each in kind.__mro__
        if each is not Adapter
        for name in {*vars(each), *vars(each).get("__annotations__", {})}
    }
    lacking = [name for name in NEEDED if name not in own]
    return f"lacks {', '.join(lacking)}" if lacking else ""
