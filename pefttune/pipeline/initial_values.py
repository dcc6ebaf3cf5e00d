"""Where LoRA's A and B begin when the layers alone do not tell: what enters them is asked, or the base's files are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttune import bases
    from pefttune.methods import Beginning, Sketch


def beginning(base: bases.Base, word: str, sketches: Mapping[str, Sketch]) -> Beginning | None:
    """What gives A and B by this `init_lora_weights`, from sketches of what enters the layers; None where the layers
    told when the adapter was attached."""
    from pefttune import methods

    if word == "eva":
        return lambda name, layer, r, scale: methods.eva(layer, sketches[name].spectrum(), r)
    if word == "corda":
        return lambda name, layer, r, scale: methods.corda(layer, sketches[name].second_moments(), r, scale, base.dtype)
    return _of_the_files(base) if word == "loftq" else None


def _of_the_files(base: bases.Base) -> Beginning:
    from pefttune import bases, methods

    originals = bases.Originals(base)

    def of_the_files(name: str, layer: nn.Linear, r: int, scale: float) -> tuple[Tensor, Tensor]:
        return methods.loftq(layer, originals.weight(name, layer), r, scale, base.dtype)

    return of_the_files
