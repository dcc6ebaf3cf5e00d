"""An adapter merged into the weights of its base: a model that transformers loads without PEFT."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from pefttune import bases
from pefttune.methods import FILE_PREFIX, LoraAdapter
from pefttune.methods.places import linear_modules

Into = Literal["original", "dequantized"]
"""The weights of the base's files, or what its quantization makes of them: those that the adapter was trained on."""


def write_merged(base: bases.Base, adapter: LoraAdapter, into: Into, folder: Path) -> None:
    """Write the base with W + scale · B · A in place of each adapted W into `folder`: each sum is made in float32 and
    rounded once, to the dtype of the base's files. Raises BaseError."""
    updates = {key.removeprefix(FILE_PREFIX): update for key, update in adapter.updates.items()}
    layers = linear_modules(base.model) if into == "dequantized" else {}
    changes = {
        f"{name}.weight": partial(_merged, layers.get(name), updates.get(name)) for name in {**updates, **layers}
    }
    bases.rewrite(base.located.folder, folder, changes)


def _merged(layer: nn.Linear | None, update: tuple[Tensor, Tensor, float] | None, stored_OI: Tensor) -> Tensor:
    """What becomes of the weight in the file: that of the layer, or itself, with the update."""
    weight_OI = (stored_OI if layer is None else bases.weight_of(layer).cpu()).float()
    if update is None:
        return weight_OI
    a_rI, b_Or, scale = update
    return weight_OI + scale * (b_Or.float().cpu() @ a_rI.float().cpu())
