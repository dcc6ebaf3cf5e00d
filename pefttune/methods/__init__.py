"""Methods of adapting a frozen base, and the files of adapters. A new method is one file and one line of `METHODS`."""

from collections.abc import Sequence
from typing import Any

from pefttune.methods import weights
from pefttune.methods.head import HeadAlone
from pefttune.methods.injected import CONFIGS, InjectedAdapter
from pefttune.methods.lora import LoraAdapter, lora_targets, tables_nbytes
from pefttune.methods.places import FILE_PREFIX
from pefttune.methods.protocol import Adapter
from pefttune.methods.ranks import full_ranks, most_ranks, spend
from pefttune.methods.spectrum import Sketch, Spectrum

METHODS: dict[str, type[HeadAlone | LoraAdapter | InjectedAdapter]] = {
    "head": HeadAlone,
    "lora": LoraAdapter,
    **dict.fromkeys(CONFIGS, InjectedAdapter),
}


def attach(model: Any, config: Any) -> Adapter:
    """Attach a new, frozen adapter of `config.method` to `model`, in place, and let none act. The model's outputs do
    not change yet.

    Raises BaseError when the method cannot be attached to this base.
    """
    activate(model)
    return METHODS[config.method](model, config)


def activate(model: Any, *adapters: Adapter | None, rows: Sequence[slice] = ()) -> None:
    """Let one adapter act in the model's forward, or none: then it is the base itself. Several act each on its own
    `rows` of the batch."""
    for kind in (InjectedAdapter, LoraAdapter):
        kind.deactivate(model)
    for adapter, own in zip(adapters, rows or [slice(None)] * len(adapters), strict=True):
        if adapter is not None:
            adapter.activate(own)


def detach(model: Any, adapter: Adapter) -> None:
    """Take an adapter off the model, which is then as it was, and lets none act."""
    activate(model)
    adapter.detach()


__all__ = [
    "FILE_PREFIX",
    "METHODS",
    "Adapter",
    "LoraAdapter",
    "Sketch",
    "Spectrum",
    "activate",
    "attach",
    "detach",
    "full_ranks",
    "lora_targets",
    "most_ranks",
    "spend",
    "tables_nbytes",
    "weights",
]
