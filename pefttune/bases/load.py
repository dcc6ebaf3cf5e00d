"""Load a base: safe, frozen, quantized, fingerprinted. With `dense.py` the only file that knows bitsandbytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from pefttune.bases import known
from pefttune.bases.dense import dequantize_if_room
from pefttune.bases.fingerprint import Fingerprint, take
from pefttune.bases.lean import make_lean
from pefttune.bases.locate import Located, locate
from pefttune.bases.machine import choose_device, choose_dtype, keep_freed_memory
from pefttune.bases.quiet import without_bars
from pefttune.bases.safety import check_complete, check_folder, read_json
from pefttune.errors import BaseError
from pefttune.recipe import schema

POOLER = "pooler."


@dataclass(frozen=True)
class Base:
    """One resident frozen model and who it is. `frozen` holds every tensor of it, as loaded, by name."""

    model: Any
    tokenizer: Any
    located: Located
    fingerprint: Fingerprint
    dtype: torch.dtype
    dtype_reason: str
    frozen: dict[str, Tensor]
    dense: bool = False
    """Whether 4-bit weights were dequantized once, for there was room."""

    @property
    def device(self) -> torch.device:
        """Where the base lives."""
        return next(iter(self.frozen.values())).device

    @property
    def weight_bytes(self) -> int:
        """Memory of the frozen tensors, quantization constants included."""
        return sum(tensor.nbytes for tensor in self.frozen.values())

    def digest(self) -> str:
        """sha256 over the bytes of every frozen tensor: equal before and after training, or training was wrong."""
        total = hashlib.sha256()
        for name, tensor in self.frozen.items():
            total.update(name.encode())
            total.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
        return total.hexdigest()


def load(config: schema.Base, origin: str | None = None, *, remember: bool = True) -> Base:
    """Load the base of a recipe.

    `origin` pins one source of a catalogue name. With `remember` adapters find it again in its folder. Raises BaseError
    for what cannot be found, trusted or used, FetchError when nothing can be fetched.
    """
    located = locate(config.source, config.revision, origin)
    check_folder(located.folder, config.quantization)
    device = choose_device(config.device)
    dtype, reason = choose_dtype(config.dtype, device)
    tokenizer = load_tokenizer(located.folder)
    model = _load_model(located.folder, _quantization(config, dtype), dtype, device)
    model.eval().requires_grad_(False)
    if device.type == "cpu":
        let_go_of_file(model)
    dense = dequantize_if_room(model, dtype, device)
    if not dense:
        _keep_canonical_layout(model)
    frozen = dict(_tensors(model))  # before the model runs: bitsandbytes moves int8 scales when it does
    make_lean(model)
    fingerprint = take(located.folder, tokenizer, quantization_name(config))
    if device.type == "cpu":
        keep_freed_memory()  # after loading, whose leftovers may go
    if remember:
        known.remember(fingerprint.digest, config.source, located)
    return Base(model, tokenizer, located, fingerprint, dtype, reason, frozen, dense)


def quantization_name(config: schema.Base) -> str:
    """`nf4+double`, `nf4`, `int8`, `none`, …: what changes the function that the base computes."""
    double = config.double_quantization and config.quantization in ("nf4", "fp4")
    return f"{config.quantization}+double" if double else config.quantization


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, without code of its own. Raises BaseError."""
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise BaseError(f"{folder}: its tokenizer cannot be read: {_first_line(error)}") from None


def _load_model(folder: Path, quantization: Any, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        kind = _auto_class(folder)
        with without_bars():
            model, info = kind.from_pretrained(
                folder,
                dtype=dtype,
                quantization_config=quantization,
                device_map={"": device},
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise BaseError(f"{folder}: the model cannot be loaded: {_first_line(error)}") from None
    if any(key.startswith(POOLER) for key in info["missing_keys"]):  # pretrained without one, as RoBERTa is
        model.pooler = None
        info = {**info, "missing_keys": {key for key in info["missing_keys"] if not key.startswith(POOLER)}}
    check_complete(folder, model, info)
    if model.config.is_encoder_decoder:
        _check_decoder(folder, model)
    return model


def _auto_class(folder: Path) -> Any:
    if is_encoder_decoder(folder):
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModel if is_encoder(folder) else transformers.AutoModelForCausalLM


def _check_decoder(folder: Path, model: Any) -> None:
    """Raise BaseError where it is not known what a decoder reads first: neither training nor writing could begin."""
    name = type(model).__name__
    if model.generation_config.decoder_start_token_id is None:
        raise BaseError(f"{folder}: its config.json has no decoder_start_token_id, with which {name} begins to write")
    if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise BaseError(
            f"{folder}: transformers' {name} does not say what its decoder reads in training; encoder-decoders such as "
            "T5, BART, Pegasus and Marian can be a base"
        )


def is_encoder_decoder(folder: Path) -> bool:
    """Whether the folder holds an encoder with a decoder behind it: T5, BART, Pegasus, Marian."""
    return bool(read_json(folder / "config.json").get("is_encoder_decoder"))


def is_encoder(folder: Path) -> bool:
    """Whether the folder holds an encoder (BERT and its kin): a model of an architecture that can fill in masked words,
    saved as no language model, and with no decoder beside it (as BART has, whatever it is saved as). It is loaded
    without an output layer, since tasks bring their own."""
    config = read_json(folder / "config.json")
    saved_as = config.get("architectures") or []
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in saved_as)
    masked = config.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked and not writes and not config.get("is_encoder_decoder")


def let_go_of_file(model: nn.Module) -> None:
    """Copy every tensor that is not quantized, for it may be a view of the mapped weight file: whoever changes that
    file would change the base, whoever shortens it would end this process, and pages read only to quantize them would
    count as memory of it."""
    for tensor in (*model.parameters(), *model.buffers()):
        if getattr(tensor, "quant_state", None) is None and getattr(tensor, "SCB", None) is None:
            tensor.data = tensor.data.clone()


def _quantization(config: schema.Base, dtype: torch.dtype) -> Any:
    if config.quantization == "none":
        return None
    if config.quantization == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_canonical_layout(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first evaluation.

    On AVX512-BF16 CPUs its first forward without gradients rewrites the frozen weights into a layout whose backward
    gives no input gradient, so every adapter but the top one would stop learning after the first evaluation
    (bitsandbytes 0.50.2, `Linear4bit.forward`).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, and the constants that bitsandbytes keeps beside a quantized weight."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name, tensor
        if (state := getattr(tensor, "quant_state", None)) is not None:
            for key, value in state.as_dict(packed=True).items():
                yield f"{name}.{key}", value
        if (scale := getattr(tensor, "SCB", None)) is not None:
            yield f"{name}.SCB", scale


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
