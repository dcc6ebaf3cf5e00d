"""Methods of adapting a frozen base, and the files of adapters. A new method is one file and one line of
`METHODS`, or a package of its own."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pefttune.methods import agreement, configuration, others, placed, weights
from pefttune.methods.adalora import AdaLoraAdapter
from pefttune.methods.bottleneck import BottleneckAdapter
from pefttune.methods.foreign import Foreign, read_foreign, read_into, section_of
from pefttune.methods.fusion import FusionAdapter
from pefttune.methods.head import HeadAlone
from pefttune.methods.initial import Beginning, corda, eva, loftq
from pefttune.methods.injected import PLACES, InjectedAdapter
from pefttune.methods.lora import LoraAdapter, least_numbers, lora_targets, tables_nbytes
from pefttune.methods.merging import Merged, merge
from pefttune.methods.places import FILE_PREFIX, linear_modules, path_in_class
from pefttune.methods.prefix import PrefixTuned
from pefttune.methods.prompts import PromptTuned, PTuned
from pefttune.methods.protocol import Adapter
from pefttune.methods.ranks import full_ranks, most_ranks, spend
from pefttune.methods.spectrum import SecondMoments, Sketch, Spectrum
from pefttune.methods.tokens import TrainableTokens
from pefttune.methods.updates import Change, Parts, change, change_of_tensor, norms, parts_of, stored_parts

METHODS: dict[str, type[Any]] = {
    "head": HeadAlone,
    "lora": LoraAdapter,
    "bottleneck": BottleneckAdapter,
    "fusion": FusionAdapter,
    **dict.fromkeys(PLACES, InjectedAdapter),
    "adalora": AdaLoraAdapter,
    "prompt_tuning": PromptTuned,
    "p_tuning": PTuned,
    "prefix_tuning": PrefixTuned,
    "trainable_tokens": TrainableTokens,
}


def attach(
    model: Any, config: Any, tokenizer: Any = None, pieces: Mapping[str, Sequence[int]] = MappingProxyType({})
) -> Adapter:
    """Attach a new, frozen adapter of `config.method` to `model`, in place, and let none act. The model's outputs do
    not change yet. `tokenizer` is the one its texts are read by, which methods that speak of words ask; where that has
    tokens which the base's lacks, `pieces` are what the base's makes of each.

    Raises BaseError when the method cannot be attached to this base.
    """
    activate(model)
    if config.method not in METHODS:
        METHODS[config.method] = others.class_of(config)
    kind = METHODS[config.method]
    words: dict[type[Any], tuple[Any, ...]] = {PromptTuned: (tokenizer,), TrainableTokens: (tokenizer, pieces)}
    adapter: Adapter = kind(model, config, *words.get(kind, ()))
    return adapter


def activate(model: Any, *adapters: Adapter | None, rows: Sequence[slice] = ()) -> None:
    """Let one adapter act in the model's forward, or none: then it is the base itself. Several act each on its own
    `rows` of the batch."""
    placed.put_back(model)
    for kind in dict.fromkeys(METHODS.values()):
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
    "Beginning",
    "Change",
    "Foreign",
    "FusionAdapter",
    "LoraAdapter",
    "Merged",
    "Parts",
    "SecondMoments",
    "Sketch",
    "Spectrum",
    "activate",
    "agreement",
    "attach",
    "change",
    "change_of_tensor",
    "configuration",
    "corda",
    "detach",
    "eva",
    "full_ranks",
    "least_numbers",
    "linear_modules",
    "loftq",
    "lora_targets",
    "merge",
    "most_ranks",
    "norms",
    "parts_of",
    "path_in_class",
    "read_foreign",
    "read_into",
    "section_of",
    "spend",
    "stored_parts",
    "tables_nbytes",
    "weights",
]
