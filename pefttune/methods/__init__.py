"""Methods of adapting a frozen base, and the files of adapters. A new method is one file and one line of `METHODS`."""

from collections.abc import Sequence
from typing import Any

from pefttune.methods import weights
from pefttune.methods.head import HeadAlone
from pefttune.methods.lora import FILE_PREFIX, LoraAdapter, tables_nbytes
from pefttune.methods.protocol import Adapter

METHODS: dict[str, type[LoraAdapter] | type[HeadAlone]] = {"head": HeadAlone, "lora": LoraAdapter}


def attach(model: Any, config: Any) -> Adapter:
    """Attach a new, frozen adapter of `config.method` to `model`, in place. The model's outputs do not change yet.

    Raises BaseError when the method cannot be attached to this base.
    """
    return METHODS[config.method](model, config)


def activate(model: Any, *adapters: Adapter | None, rows: Sequence[slice] = ()) -> None:
    """Let one adapter act in the model's forward, or none: then it is the base itself. Several act each on its own
    `rows` of the batch."""
    for method in METHODS.values():
        method.deactivate(model)
    for adapter, own in zip(adapters, rows or [slice(None)] * len(adapters), strict=True):
        if adapter is not None:
            adapter.activate(own)


__all__ = ["FILE_PREFIX", "METHODS", "Adapter", "activate", "attach", "tables_nbytes", "weights"]
