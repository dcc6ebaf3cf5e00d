"""Where in a base's layers a bottleneck adapter acts: at modules that transformers' classes have in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from torch import nn

from pefttune.errors import BaseError
from pefttune.methods.places import layers_of


class Reads(Enum):
    """What an adapter reads, and to what its output is added."""

    OUTPUT = "the module's output, and is added to it"
    INPUT = "the module's input, and is added to its output"
    RESIDUAL = "the module's second argument, the residual that it adds to its own, and is added to it"


@dataclass(frozen=True)
class Place:
    """A module of the base, by its path, and what an adapter reads there."""

    module: str
    reads: Reads

    @property
    def key(self) -> str:
        """Its path in an adapter's file."""
        return self.module.removesuffix(".dropout")


class Block(NamedTuple):
    """A kind of layer: the modules, by their paths in it, that give what its two parts add to the residual."""

    attention: str
    feed_forward: str
    norm_behind: str | None = None
    """For a norm behind the residual: the norm's path. The module it is in gets the feed-forward part's own input as
    the residual."""


BLOCKS = {
    "Llama, Mistral, Qwen, Gemma, Phi, OLMo": Block("self_attn", "mlp"),
    "GPT-2, GPT-J, ModernBERT": Block("attn", "mlp"),
    "GPT-NeoX, ViT, DINOv2": Block("attention", "mlp"),
    "DistilBERT": Block("attention", "ffn"),
    "BERT, RoBERTa, ELECTRA, DeBERTa": Block("attention.output.dropout", "output.dropout", "output.LayerNorm"),
}
"""By models that are built so."""


def places_of(model: Any, placement: str, layers: str | tuple[int, ...] | None) -> list[Place]:
    """Where adapters of a placement act in the layers asked for, the lowest first. Raises BaseError for layers that the
    base has not, and for a base that is built in another way."""
    wanted = layers_of(model, layers)
    path, block = _block_of(model)
    within = [
        place for i in range(_count(model)) if wanted is None or i in wanted for place in _in_layer(block, placement, i)
    ]
    return [Place(f"{path}.{place.module}", place.reads) for place in within]


def _in_layer(block: Block, placement: str, number: int) -> list[Place]:
    attention, feed_forward = f"{number}.{block.attention}", f"{number}.{block.feed_forward}"
    if placement == "houlsby":
        return [Place(attention, Reads.OUTPUT), Place(feed_forward, Reads.OUTPUT)]
    if placement == "pfeiffer":
        return [Place(feed_forward, Reads.OUTPUT)]
    if block.norm_behind is None:
        return [Place(feed_forward, Reads.INPUT)]
    return [Place(feed_forward.removesuffix(".dropout"), Reads.RESIDUAL)]


def _block_of(model: Any) -> tuple[str, Block]:
    """The path of the base's list of layers, and their kind."""
    if model.config.is_encoder_decoder:
        raise BaseError(
            f"adapter.method: {type(model).__name__} is an encoder-decoder, and bottleneck adapters know decoders and "
            "encoders only; take `method: lora`"
        )
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == _count(model):
            for block in BLOCKS.values():
                if all(_is(block, layer) for layer in module):
                    return path, block
    raise BaseError(
        f"adapter.method: bottleneck adapters do not know how the layers of {type(model).__name__} are built; they "
        f"know those of {', '.join(BLOCKS)} and of models built like these; take `method: lora`"
    )


def _count(model: Any) -> int:
    count: int = model.config.get_text_config().num_hidden_layers
    return count


def _is(block: Block, layer: nn.Module) -> bool:
    names = {name for name, _ in layer.named_modules()}
    return names >= {name for name in block if name is not None}
