"""A LoRA in GGUF: real llama.cpp, where it is installed, computes what pefttune does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from pefttune import methods
from pefttune.errors import BaseError
from pefttune.inference import Session
from pefttune.publishing import check_gguf, write_gguf

IDS = [3, 60, 104, 33, 240, 12, 9, 77]
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "patterns": {"rank_pattern": {Q: 2, K: 0}, "lora_alpha": 6},
    "without-effect": {"lora_alpha": 0},
}
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}


@pytest.fixture
def session_of(base_of: Any, adapted: Any, new_tokenizer: Any, tmp_path: Path) -> Any:
    """`session_of("Llama", use_rslora=True)`: a random adapter `a` on a random base, neither of them small."""

    def make(kind: str, **lora: Any) -> Session:
        import transformers

        folder = tmp_path / kind
        size = {**SIZE, "vocab_size": new_tokenizer(folder), "num_key_value_heads": 2, "max_position_embeddings": 512}
        torch.manual_seed(0)
        own = {"sliding_window": None} if kind == "Mistral" else {}
        config = getattr(transformers, f"{kind}Config")(
            **size, **own, bos_token_id=None, eos_token_id=1, pad_token_id=0
        )
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.2) if parameter.dim() > 1 else parameter.data.add_(0.1)
        model.save_pretrained(folder)
        session = Session(base_of(folder))
        adapted(session, "a", **lora)
        return session

    return make


def as_llama_has_it(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row by row: the first half of a head's rows go to its even places, the second half to its odd ones."""
    width = len(rows) // heads
    places = [h * width + 2 * (i % (width // 2)) + i // (width // 2) for h in range(heads) for i in range(width)]
    result = np.empty_like(rows)
    result[places] = rows
    return result


def written(session: Session, folder: Path) -> Path:
    path = folder / "a.gguf"
    adapter = session["a"].adapter
    assert isinstance(adapter, methods.LoraAdapter)
    write_gguf(session.base, adapter, path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_the_file_holds_every_update_with_its_scale(session_of: Any, tmp_path: Path, kind: str, variant: str) -> None:
    session = session_of(kind, **VARIANTS[variant])
    reader = gguf.GGUFReader(written(session, tmp_path))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == kind.lower()
    assert fields["adapter.type"] == "lora"
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    updates = session["a"].adapter.updates  # type: ignore[union-attr]
    assert len(tensors) == 2 * len(updates)
    for layer, ours, heads in (("self_attn.q_proj", "attn_q", 4), ("mlp.down_proj", "ffn_down", 0)):
        a, b, scale = updates[f"base_model.model.model.layers.0.{layer}"]
        whole = (scale * (b @ a)).detach().numpy()
        if heads and kind == "Llama":
            whole = as_llama_has_it(whole, heads)
        lora_a, lora_b = (tensors[f"blk.0.{ours}.weight.lora_{half}"] for half in "ab")
        assert (lora_a.shape, lora_b.shape) == (a.shape, b.shape)
        taken = fields["adapter.lora.alpha"] / lora_b.shape[1] * (lora_b @ lora_a)  # as llama.cpp's get_scale has it
        np.testing.assert_allclose(taken, whole, rtol=1e-5, atol=1e-6)


def write_base(model: Any, kind: str, path: Path) -> Path:
    """The base in GGUF, in float32, without a vocabulary."""
    config = model.config
    architecture = gguf.MODEL_ARCH.LLAMA if kind == "Mistral" else gguf.MODEL_ARCH[kind.upper()]
    names, writer = (
        gguf.get_tensor_name_map(architecture, 2),
        gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture]),
    )
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for key, tensor in model.state_dict().items():
        data, name = tensor.float().numpy(), names.get_name(key, try_suffixes=(".weight", ".bias"))
        if architecture == gguf.MODEL_ARCH.LLAMA and ("q_proj" in key or "k_proj" in key):
            data = as_llama_has_it(data, 4 if "q_proj" in key else 2)
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_llama_cpp(base: Path, adapter: Path | None) -> np.ndarray:
    """Logits (tokens, V) of `IDS` in float32."""
    llama_cpp = pytest.importorskip("llama_cpp_py_sync", reason="llama.cpp is not installed")
    plain = {"type_k": "f32", "type_v": "f32", "flash_attn_type": 0, "n_threads": 1}
    llama = llama_cpp.Llama(str(base), n_ctx=64, **plain)
    lib, ffi = llama._lib, llama._ffi
    if adapter is not None:
        loaded = lib.llama_adapter_lora_init(llama._model, str(adapter).encode())
        assert loaded != ffi.NULL
        ours, scales = ffi.new("struct llama_adapter_lora *[]", [loaded]), ffi.new("float[]", [1.0])
        assert lib.llama_set_adapters_lora(llama._ctx, ours, 1, scales) == 0
    batch = lib.llama_batch_init(len(IDS), 0, 1)
    batch.n_tokens = len(IDS)
    for i, token in enumerate(IDS):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert lib.llama_decode(llama._ctx, batch) == 0
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(llama._model))
    rows = [np.array(ffi.unpack(lib.llama_get_logits_ith(llama._ctx, i), size)) for i in range(len(IDS))]
    lib.llama_batch_free(batch)
    llama.close()
    return np.stack(rows)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@torch.no_grad()
def test_llama_cpp_computes_the_same(session_of: Any, tmp_path: Path, kind: str, variant: str) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="llama.cpp is not installed")
    session = session_of(kind, **VARIANTS[variant])
    model, ids = session.base.model, torch.tensor([IDS])
    adapter = written(session, tmp_path)
    with session.passing("a"):
        adapted = model(ids).logits[0].numpy()
    with session.passing(None):
        plain = model(ids).logits[0].numpy()
    session.remove("a")
    base = write_base(model, kind, tmp_path / "base.gguf")
    # Both in float32, in other orders of summing; logits of some tens.
    np.testing.assert_allclose(by_llama_cpp(base, None), plain, atol=1e-3)
    np.testing.assert_allclose(by_llama_cpp(base, adapter), adapted, atol=1e-3)
    assert (np.abs(adapted - plain).max() > 0.5) == (variant != "without-effect")


def test_other_architectures_are_refused() -> None:
    with pytest.raises(
        BaseError, match=r"how llama.cpp lays out gemma3 is not known here, but of llama, mistral, qwen2"
    ):
        check_gguf("gemma3")
