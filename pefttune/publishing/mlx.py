"""A LoRA adapter as the folder that mlx-lm loads (its tuner/utils.py:load_adapters).

mlx-lm puts a LoRA of one rank and one scale around the modules `keys` of the uppermost `num_layers` layers, whose B is
zero unless the file has another: smaller ranks are filled up with zeros, scales that differ are folded into B.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from pefttune.errors import AdapterError
from pefttune.publishing.low_rank import Update, check_alike

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
MOST_DIGITS = 6
"""Of a layer's number."""


def write_mlx(folder: Path, updates: Mapping[str, Update], base: Any, told: Mapping[str, Any]) -> None:
    """Write weights and configuration into `folder`, float32, and read them back. `base` is transformers'
    configuration of the adapter's base, `told` its manifest. Raises AdapterError for a module that is in no layer,
    VerificationError, OSError."""
    rank = max(update.rank for update in updates.values())
    scale = next(iter(scales)) if len(scales := {update.scale for update in updates.values()}) == 1 else 1.0
    places = {name: _place(name) for name in updates}
    config = {
        "fine_tune_type": "lora",
        "model": told["base"]["hub_id"] or told["base"]["origin"],
        "num_layers": base.num_hidden_layers - min(layer for layer, _ in places.values()),
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": sorted({key for _, key in places.values()}),
        },
    }
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        b_Or = update.b_Or if update.scale == scale else update.b_Or * update.scale
        tensors[f"{name}.lora_a"] = pad(update.a_rI, (0, 0, 0, rank - update.rank)).t().contiguous()
        tensors[f"{name}.lora_b"] = pad(b_Or, (0, rank - update.rank)).t().contiguous()
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "mlx"})
    except SafetensorError as error:  # its word for a full disk, too
        raise OSError(f"{WEIGHTS}: {error}") from None
    (folder / WEIGHTS).chmod(0o644)  # safetensors keeps others out
    (folder / CONFIG).write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    check_alike(WEIGHTS, _read(folder), dict(updates))


def _place(name: str) -> tuple[int, str]:
    """The layer that a module is in, and its name there: `model.layers.3.mlp.up_proj` is `mlp.up_proj` in layer 3."""
    before, _, inside = name.partition("model.layers.")
    number, _, key = inside.partition(".")
    if before or not number.isdecimal() or len(number) > MOST_DIGITS:
        raise AdapterError(
            f"mlx-lm adapts modules inside the layers, and {name} is in none; pefttune export --to merged makes a "
            "model that needs no adapter"
        )
    return int(number), key


def _read(folder: Path) -> dict[str, Update]:
    """What mlx-lm adds to each module, by the files alone."""
    scale = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["lora_parameters"]["scale"]
    tensors = load_file(folder / WEIGHTS)
    names = [key.removesuffix(".lora_a") for key in tensors if key.endswith(".lora_a")]
    return {name: Update(tensors[f"{name}.lora_a"].t(), tensors[f"{name}.lora_b"].t(), scale) for name in names}
