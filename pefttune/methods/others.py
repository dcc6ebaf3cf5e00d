"""Methods from other packages: the class of adapters that a section from an entry point names."""

from __future__ import annotations

from typing import Any

from pefttune.errors import BaseError
from pefttune.methods.protocol import Adapter

NEEDED = (*Adapter.__annotations__, *(name for name in vars(Adapter) if not name.startswith("_")))


def class_of(section: Any) -> type[Adapter]:
    """What the section's `adapter_class()` gives. Raises BaseError, which names the package, where that is no class of
    adapters."""
    origin = f"adapter.method: {section.method} comes from the package {type(section).__module__.partition('.')[0]}"
    try:
        kind = section.adapter_class()
    except Exception as error:  # whatever another package's code raises
        raise BaseError(f"{origin}, and cannot be loaded ({type(error).__name__}: {error})") from error
    lacking = [name for name in NEEDED if name not in {*dir(kind), *getattr(kind, "__annotations__", {})}]
    if not isinstance(kind, type) or lacking:
        told = f"lacks {', '.join(lacking)}" if isinstance(kind, type) else "is no class"
        raise BaseError(f"{origin}, and {kind!r} is no pefttune.methods.Adapter: it {told}")
    return kind
