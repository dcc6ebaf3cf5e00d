"""llama.cpp itself, and bases as it reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
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


def model_for_others(kind: str) -> Any:
    """A tiny random model that llama.cpp and mlx-lm have as well, told all that they take for granted."""
    import transformers

    small = {"vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    tokens = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "max_position_embeddings": 256}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    own: dict[str, Any] = {"rope_parameters": rope, "sliding_window": None}
    if kind in ("Gemma2", "Gemma3Text"):
        # Windows as long as any text here, so that it is no matter in which layers they are.
        own |= {"query_pre_attn_scalar": 8, "sliding_window": 256}
    if kind == "Gemma3Text":  # five of six layers have a window, and an embedding of places of their own
        own |= {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
        own["rope_parameters"] = {"sliding_attention": rope, "full_attention": rope}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**small, **heads, **tokens, **own})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.eval().requires_grad_(False).parameters():
        parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    return model


KINDS = ("Llama", "Mistral", "SmolLM3", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text", "Phi3")
PROMPTS = ([7], [5, 200, 31, 8], list(range(2, 40)))
# Both sum some 32 numbers of about 1 in float32, through a few layers: 5e-6 was seen.
ROUNDING = 1e-4
# llama.cpp's CPU kernel looks GELU up in a table of float16, to 2⁻¹¹: 2e-3 was seen.
TABLE = 1e-2


def tolerance(kind: str) -> float:
    """How far apart log-probabilities of a kind may be."""
    return TABLE if kind.startswith("Gemma") else ROUNDING


def random_updates(model: Any, wanted: str = "") -> dict[str, Any]:
    """Updates of all linear layers in whose path `wanted` is, their ranks and scales all different."""
    from pefttune.publishing.low_rank import Update

    torch.manual_seed(1)
    updates: dict[str, Any] = {}
    for number, (name, layer) in enumerate(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name != "lm_head" and wanted in name:
            r = 2 + 2 * (number % 3)
            a_rI, b_Or = torch.randn(r, layer.in_features) / 8, torch.randn(layer.out_features, r) / 8
            updates[name] = Update(a_rI, b_Or, 0.7 + number % 2)
    return updates


def logprobs(model: Any, updates: dict[str, Any]) -> torch.Tensor:
    """What transformers says of each token behind each of the prompts, with the updates added to the weights."""
    before = {name: model.get_submodule(name).weight.clone() for name in updates}
    for name, update in updates.items():
        model.get_submodule(name).weight.add_(update.scale * (update.b_Or @ update.a_rI))
    found = torch.stack([model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1) for ids in PROMPTS])
    for name, weight in before.items():
        model.get_submodule(name).weight.copy_(weight)
    return found


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
    names = gguf.get_tensor_name_map(next(k for k, n in gguf.MODEL_ARCH_NAMES.items() if n == kind.name), 8)
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

    keys: dict[str, tuple[Any, Any]] = {"rope.freq_base": (10000.0, Type.FLOAT32)}
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
def others() -> SimpleNamespace:
    """The helpers above, since pytest's importlib mode has no `import conftest`."""
    return SimpleNamespace(
        model=model_for_others,
        updates=random_updates,
        logprobs=logprobs,
        prompts=PROMPTS,
        tolerance=tolerance,
        base_gguf=write_base_gguf,
        manifest={"name": "mine", "base": {"hub_id": None, "origin": "tiny"}},
    )


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """An architecture, by the class of its configuration; a test is run for each."""
    return str(request.param)


@pytest.fixture
def kinds() -> tuple[str, ...]:
    """All of them."""
    return KINDS
