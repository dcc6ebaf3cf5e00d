"""A LoRA adapter as the GGUF file that llama.cpp and Ollama load beside a base (llama.cpp's src/llama-adapter.cpp).

llama.cpp adds adapter.lora.alpha / r · B · A to a weight, with one alpha for all layers and r the layer's own: what of
a scale is not that is folded into B. Names of tensors are those of the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.publishing.architectures import LLAMA_CPP
from pefttune.publishing.low_rank import Update, check_alike

FILE = "adapter.gguf"


def write_gguf(folder: Path, updates: Mapping[str, Update], base: Any, alpha: float, told: Mapping[str, Any]) -> None:
    """Write `adapter.gguf` into `folder`, float32, and read it back. `base` is transformers' configuration of the
    adapter's base, `alpha` its `lora_alpha`, `told` its manifest. Raises AdapterError for a layer that llama.cpp has no
    name for, VerificationError, OSError."""
    kind, alpha = LLAMA_CPP[base.model_type], alpha or 1.0  # it takes an alpha of 0 for none, a scale of 1
    names = gguf_names(kind.name, base.num_hidden_layers, updates)
    writer = gguf.GGUFWriter(folder / FILE, kind.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(told["name"])
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, told["base"]["hub_id"] or told["base"]["origin"])
    for layer, update in updates.items():
        b_Or = update.b_Or * (update.scale * update.rank / alpha)
        b_Or = _paired(b_Or, _heads_that_fit(layer, base, len(b_Or))) if kind.paired else b_Or
        for half, weight in (("a", update.a_rI), ("b", b_Or)):
            writer.add_tensor(f"{names[layer]}.weight.lora_{half}", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_alike(FILE, _read(folder / FILE, names, base), dict(updates))


def gguf_names(architecture: str, layers: int, wanted: Mapping[str, Any]) -> dict[str, str]:
    """llama.cpp's names of these linear layers. Raises AdapterError for those that have none."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(kinds[architecture], layers)
    names = {layer: known.get_name(layer) for layer in wanted}
    if missing := [layer for layer, name in names.items() if name is None]:
        raise AdapterError(
            f"llama.cpp has no name for the layer {missing[0]}; pefttune export --to merged makes a model that needs "
            "no adapter"
        )
    return {layer: str(name) for layer, name in names.items()}


def heads_of(layer: str, base: Any) -> int | None:
    """How many heads a layer has whose rows llama.cpp may order otherwise; None for other layers."""
    heads = {"q_proj": base.num_attention_heads, "k_proj": base.num_key_value_heads}
    return heads.get(layer.rpartition(".")[2])


def _heads_that_fit(layer: str, base: Any, rows: int) -> int | None:
    """`heads_of`. Raises AdapterError where a layer of so many outputs cannot have these."""
    heads = heads_of(layer, base)
    if heads is not None and rows % (2 * heads):
        raise AdapterError(f"{layer} has {rows} outputs, which {heads} heads of its base cannot share")
    return heads


def _paired(b_Or: Tensor, heads: int | None) -> Tensor:
    """The rows of each head in the order of llama.cpp's rotary embedding, which turns neighbours, where transformers'
    turns the first half of a head's rows with the second."""
    if heads is None:
        return b_Or
    rows, r = b_Or.shape
    return b_Or.reshape(heads, 2, rows // heads // 2, r).transpose(1, 2).reshape(rows, r)


def _unpaired(b_Or: Tensor, heads: int | None) -> Tensor:
    """`_paired`, undone."""
    if heads is None:
        return b_Or
    rows, r = b_Or.shape
    return b_Or.reshape(heads, rows // heads // 2, 2, r).transpose(1, 2).reshape(rows, r)


def _read(path: Path, names: Mapping[str, str], base: Any) -> dict[str, Update]:
    """What llama.cpp adds to each layer, by the file alone."""
    reader = gguf.GGUFReader(path)
    alpha = float(reader.get_field(gguf.Keys.Adapter.LORA_ALPHA).contents())
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    paired = LLAMA_CPP[base.model_type].paired
    updates: dict[str, Update] = {}
    for layer, name in names.items():
        a_rI, b_Or = (tensors.pop(f"{name}.weight.lora_{half}") for half in "ab")
        b_Or = _unpaired(b_Or, heads_of(layer, base)) if paired else b_Or
        updates[layer] = Update(a_rI, b_Or, alpha / len(a_rI))
    return updates
