"""llama.cpp itself, and bases as it reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

# What transformers' classes of Gemma add to the weights of their norms when they run, llama.cpp's files hold added.
ONE_MORE = ("gemma", "gemma2", "gemma3_text")


class LlamaCpp:
    """llama.cpp with a base from a GGUF file, and an adapter from another or none."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        binding = pytest.importorskip("xllamacpp", reason="no llama.cpp: pip install xllamacpp")
        params = binding.CommonParams()
        params.model.path = str(base)
        params.n_ctx = params.n_batch = params.n_ubatch = 256
        params.n_parallel, params.n_gpu_layers, params.port, params.verbosity = 1, 0, 0, -1
        params.warmup = params.fit_params = False
        # As exact as it can be: its cache and its fast attention would round to float16.
        params.cache_type_k = params.cache_type_v = binding.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = binding.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        if adapter is not None:
            params.lora_adapters = [binding.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self._server = binding.Server(params)

    def logprobs(self, prompts: Sequence[Sequence[int]], vocabulary: int) -> torch.Tensor:
        """The log-probability of each token of the vocabulary behind each prompt, given as token ids."""
        return torch.stack([self._after(prompt, vocabulary) for prompt in prompts])

    def _after(self, prompt: Sequence[int], vocabulary: int) -> torch.Tensor:
        asked = {"prompt": list(prompt), "n_predict": 1, "n_probs": vocabulary, "temperature": 0.0}
        told = self._server.handle_completions({**asked, "cache_prompt": False, "samplers": ["temperature"]})
        found = torch.full((vocabulary,), math.nan, dtype=torch.float64)
        for each in told["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        assert not found.isnan().any()
        return found


@pytest.fixture(scope="session")
def llama_cpp() -> type[LlamaCpp]:
    """`LlamaCpp`, which skips the test where its binding is not installed."""
    pytest.importorskip("xllamacpp", reason="no llama.cpp: pip install xllamacpp")
    return LlamaCpp


def write_base_gguf(model: Any, path: Path) -> Path:
    """A tiny model of transformers as llama.cpp's own converter writes it, in float32."""
    import gguf

    from pefttune.publishing.architectures import LLAMA_CPP
    from pefttune.publishing.llama_cpp import heads_of

    config = model.config
    kind = LLAMA_CPP[config.model_type]
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, kind.name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)
    for key, value in own_keys(config).items():
        writer.add_key_value(f"{kind.name}.{key}", *value)
    _add_vocabulary(writer, config.vocab_size)
    names = gguf.get_tensor_name_map(next(k for k, n in gguf.MODEL_ARCH_NAMES.items() if n == kind.name), 2)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        layer, _, part = name.rpartition(".")
        weight = weight.float()
        if kind.paired and (heads := heads_of(layer, config)):
            weight = weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        if config.model_type in ONE_MORE and name.endswith("norm.weight"):
            weight = weight + 1
        writer.add_tensor(f"{names.get_name(layer)}.{part}", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def own_keys(config: Any) -> dict[str, tuple[Any, Any]]:
    """What an architecture needs told besides: keys with value and type."""
    from gguf import GGUFValueType as Type

    theta = config.rope_parameters
    theta = theta.get("full_attention", theta)["rope_theta"]
    keys: dict[str, tuple[Any, Any]] = {"rope.freq_base": (float(theta), Type.FLOAT32)}
    if config.model_type in ("gemma2", "gemma3_text", "phi3") and config.sliding_window:
        keys["attention.sliding_window"] = (config.sliding_window, Type.UINT32)
    if config.model_type == "gemma2":
        keys["attn_logit_softcapping"] = (config.attn_logit_softcapping, Type.FLOAT32)
        keys["final_logit_softcapping"] = (config.final_logit_softcapping, Type.FLOAT32)
    return keys


def _add_vocabulary(writer: Any, size: int) -> None:
    """Names for the tokens, which are always given by their ids."""
    from gguf import TokenType

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{number}>" for number in range(size)])
    writer.add_token_types([TokenType.NORMAL] * size)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


@pytest.fixture(scope="session")
def base_gguf() -> Callable[[Any, Path], Path]:
    """`write_base_gguf`."""
    return write_base_gguf
