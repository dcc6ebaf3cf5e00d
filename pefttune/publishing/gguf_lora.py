"""A LoRA adapter as llama.cpp reads it: a GGUF file of low-rank updates, beside one of the base."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from pefttune import bases
from pefttune.errors import BaseError
from pefttune.methods import FILE_PREFIX, LoraAdapter

LLAMA = gguf.MODEL_ARCH.LLAMA
ARCHITECTURES = {"llama": LLAMA, "mistral": LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
"""llama.cpp's name of transformers' model types."""
ALPHA = 1.0


def check_gguf(model_type: str) -> None:
    """Raise BaseError for a model type that is not known to be written right."""
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BaseError(f"--to gguf: how llama.cpp lays out {model_type} is not known here, but of {known}")


def write_gguf(base: bases.Base, adapter: LoraAdapter, path: Path) -> None:
    """Write A (r, I) and B (O, r) of each layer in float32. llama.cpp scales a layer by `adapter.lora.alpha` over its
    rank, so B takes up what PEFT scales by: lora_alpha, rsLoRA, and patterns of ranks and of alphas.

    Raises BaseError for a model type that is not known, or a layer that llama.cpp does not have.
    """
    config = base.model.config
    check_gguf(config.model_type)
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {}
    if architecture == LLAMA:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for key, (a_rI, b_Or, scale) in adapter.updates.items():
        layer = key.removeprefix(FILE_PREFIX)
        name = names.get_name(f"{layer}.weight", try_suffixes=(".weight",))
        if name is None:
            raise BaseError(f"--to gguf: llama.cpp has no layer {layer}")
        b = scale * len(a_rI) / ALPHA * b_Or.float().cpu().numpy()
        if n := heads.get(layer.rpartition(".")[2]):
            b = _interleaved(b, n)
        writer.add_tensor(f"{name}.lora_a", a_rI.float().cpu().numpy())
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys as llama.cpp has those of Llama: rotary embedding turns pairs of rows, which in
    transformers are halves of a head, and there are neighbours."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
