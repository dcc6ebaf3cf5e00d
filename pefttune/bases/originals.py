"""The weights of a quantized base as its files hold them, one at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pefttune.bases.load import Base
from pefttune.bases.locate import MAX_INDEX_BYTES
from pefttune.bases.safety import read_json
from pefttune.errors import BaseError


class Originals:
    """Reads from a base's folder what its linear layers were quantized from."""

    def __init__(self, base: Base) -> None:
        self._folder, self._prefix = base.located.folder, f"{base.model.base_model_prefix}."
        self._files = _files_by_key(self._folder)

    def weight(self, name: str, layer: nn.Linear) -> Tensor:
        """The weight (O, I) of the linear layer at the path `name` of the base, in float32, on the layer's device.

        Raises BaseError where the files do not hold it under that name, or not as one matrix of numbers.
        """
        own = f"{name}.weight"
        # As transformers reads them: a checkpoint may hold more of a model, or less, than is loaded.
        key = next(
            (key for key in (own, self._prefix + own, own.removeprefix(self._prefix)) if key in self._files), None
        )
        if key is None:
            raise self._told(f"the weight of {name} is not in its files under that name")
        try:
            with safe_open(self._files[key], framework="pt") as tensors:
                weight: Tensor = tensors.get_tensor(key)
        except (OSError, SafetensorError) as error:  # moved or changed since the base was read
            raise self._told(f"{key} cannot be read from its files: {error}") from None
        shape = (layer.out_features, layer.in_features)
        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16) or weight.shape != shape:
            raise self._told(f"{key} in its files is not the weight of {name} before it was quantized")
        return weight.to(layer.weight.device, torch.float32)

    def _told(self, fault: str) -> BaseError:
        return BaseError(
            f"{self._folder}: {fault}, so that `init_lora_weights: loftq` cannot tell what quantization took away; "
            "`pissa` or `default` need no other weights"
        )


def _files_by_key(folder: Path) -> dict[str, Path]:
    """The file of each tensor; of several sets of weights in a folder those that transformers reads."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not single.is_file():
        weight_map = read_json(index, MAX_INDEX_BYTES)["weight_map"]
        return {key: folder / file for key, file in weight_map.items()}
    with safe_open(single, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), single)
