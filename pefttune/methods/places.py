"""Where in a base adapters go: its modules, by the names that they have in transformers' classes and PEFT's files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pefttune.errors import BaseError

FILE_PREFIX = "base_model.model."
# It reads one token of each text, behind the layers, and belongs to a head.
POOLER = "pooler"


def path_in_class(model: Any) -> str:
    """What stands before a module's path in transformers' classes for tasks: an encoder, here loaded alone, has a name
    of its own there."""
    alone = model.base_model is model and model.get_output_embeddings() is None  # T5 is its own base, and whole
    return f"{model.base_model_prefix}." if alone else ""


def embedding_path(model: Any) -> str:
    """The path of the table that a text's tokens are looked up in; of an encoder-decoder, that of its encoder."""
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    table = reader.get_input_embeddings()
    # An encoder-decoder may have one table in several places.
    paths = (path_of(model, reader), path_of(reader, table))
    return ".".join(path for path in paths if path)


def path_of(model: nn.Module, wanted: nn.Module) -> str:
    """The path of a module of the model; its first one, if it is in several places."""
    path: str = next(name for name, module in model.named_modules() if module is wanted)
    return path


def linear_modules(model: Any) -> dict[str, nn.Linear]:
    """The linear layers of the base by path, without its output layer and pooler. (bitsandbytes' layers are nn.Linear
    too.)"""
    output = model.get_output_embeddings()
    modules: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not output and not name.startswith(POOLER):
            modules[name.removesuffix(".base_layer")] = module
    return modules


def targets_of(model: Any, linears: Mapping[str, nn.Linear], wanted: str | Sequence[str]) -> list[str]:
    """Names of the modules to adapt (see `is_called`). Raises BaseError when one of them is nowhere in the base."""
    present = sorted({name.rpartition(".")[2] for name in linears})
    if not present:
        raise BaseError(f"adapter.method: {type(model).__name__} has no linear layers that LoRA could be attached to")
    if wanted == "all-linear":
        return present
    for target in wanted:
        if not any(is_called(name, target) for name in linears):
            close = difflib.get_close_matches(target, present, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BaseError(
                f"adapter.target_modules: the base has no linear module {target!r}{hint}; it has {', '.join(present)}"
            )
    return list(wanted)


def is_called(path: str, name: str) -> bool:
    """Whether the module at `path` has this name, or its path ends in it: `output.dense`, as PEFT reads names."""
    return f".{path}".endswith(f".{name}")


def check_rank(name: str, linear: nn.Linear, r: int, key: str = "r", times: int = 1) -> None:
    """Raise BaseError when `times` the rank `r` is more than a weight of that layer can have."""
    width = min(linear.in_features, linear.out_features)
    if times * r > width:
        twice = f", which makes a LoRA of rank {times * r} by these init_lora_weights," if times > 1 else ""
        less = f"take {width // times} or less, or " if width >= times else ""
        raise BaseError(
            f"adapter.{key}: {r}{twice} is over the rank of {name}, whose {linear.in_features} inputs and "
            f"{linear.out_features} outputs give {width} at most; {less}name other adapter.target_modules"
        )


def layer_of(name: str) -> int:
    """The first number in a module's path is that of its layer."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def layers_of(model: Any, wanted: str | Sequence[int] | None) -> list[int] | None:
    """Indices of the layers to adapt, None for all. Raises BaseError when the base has no such layers."""
    if wanted is None:
        return None
    if model.config.is_encoder_decoder:
        raise BaseError(
            "adapter.layers: this base is an encoder-decoder, and its encoder and its decoder count their layers each "
            "from 0; leave it out, so that all are adapted, or choose modules by adapter.target_modules"
        )
    count = model.config.get_text_config().num_hidden_layers
    if isinstance(wanted, str):
        top = int(wanted.removeprefix("top-"))
        if top > count:
            raise BaseError(f"adapter.layers: the base has {count} layers; {wanted} asks for more")
        return list(range(count - top, count))
    if not wanted or not all(0 <= index < count for index in wanted):
        raise BaseError(f"adapter.layers: the base has layers 0 to {count - 1}; {list(wanted)} is not in it")
    return list(wanted)
