"""Merged weights are W + scale · B · A, rounded once, and every other byte is the base's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pefttune import bases
from pefttune.bases import dense
from pefttune.errors import BaseError
from pefttune.inference import Session
from pefttune.publishing import new_folder, write_merged

PAIRS = [("fine film", "good"), ("dull, cold and too long", "bad")]


@pytest.fixture
def merged(base_of: Any, adapted: Any, tmp_path: Path) -> Any:
    """Writes a random adapter merged into its base: gives session, examples' maker and the folder."""

    def write(source: Path, into: str, lora: dict[str, Any] | None = None, **base: Any) -> tuple[Session, Path]:
        session = Session(base_of(source, **base))
        adapted(session, "a", **{"r": 4, "std": 0.05, **(lora or {})})
        with new_folder(tmp_path / "merged") as folder:
            write_merged(session.base, session["a"].adapter, into, folder)  # type: ignore[arg-type]
        return session, tmp_path / "merged"

    return write


def updates(session: Session) -> dict[str, torch.Tensor]:
    """The weight that each adapted tensor is to gain."""
    found = session["a"].adapter.updates.items()  # type: ignore[union-attr]
    return {f"{key.removeprefix('base_model.model.')}.weight": scale * (b @ a) for key, (a, b, scale) in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_adapted_weights_change_by_their_update(
    merged: Any, new_model: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = tmp_path / "base"
    new_model(folder)
    from transformers import LlamaForCausalLM

    LlamaForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    lora = {"rank_pattern": {"model.layers.0.self_attn.q_proj": 2}, "use_rslora": True, "target_modules": ["q_proj"]}
    session, out = merged(folder, "original", lora)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    gained = updates(session)
    assert len(gained) == 2
    assert before.keys() == after.keys()
    for name, weight in before.items():
        wanted = (weight.float() + gained[name]).to(dtype) if name in gained else weight
        assert torch.equal(after[name], wanted), name
    assert (out / "model.safetensors").stat().st_size == (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("shards", [False, True], ids=["one-file", "shards"])
def test_transformers_alone_computes_what_the_adapter_does(
    merged: Any, new_model: Any, tmp_path: Path, shards: bool, examples_of: Any
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder = new_model(tmp_path / "base")
    if shards:
        model = LlamaForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="40KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    session, out = merged(folder, "original")
    alone, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == session.base.tokenizer.chat_template
    for example, scores in zip(*_scored(session, examples_of), strict=True):
        for answer, score in zip(example.answers, scores, strict=True):
            ids = torch.tensor([[*example.prompt, *answer]])
            with torch.no_grad():
                logits = alone(ids).logits[0].log_softmax(-1)
            told = logits[len(example.prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
            # x (W + ΔW) is summed in another order than x W + (x A) B: some 1e-6 of scores about 10.
            assert float(told) == pytest.approx(float(score), abs=1e-4)


def _scored(session: Session, examples_of: Any) -> tuple[list[Any], list[torch.Tensor]]:
    examples = examples_of(session["a"], PAIRS)
    return examples, session.scores("a", examples)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("room", [True, False], ids=["dense", "packed"])
def test_dequantized_weights_are_those_that_the_base_multiplies_with(
    merged: Any, new_model: Any, tmp_path: Path, base_of: Any, kind: str, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_model(tmp_path / "base", hidden_size=64, intermediate_size=128)
    if not room:
        monkeypatch.setattr(dense, "PART_OF_FREE_MEMORY", 0)
    session, out = merged(folder, "dequantized", {"target_modules": ["q_proj"]}, quantization=kind)
    fresh, after, gained = base_of(folder, quantization=kind), load_file(out / "model.safetensors"), updates(session)
    quantized = 0
    for name, weight in load_file(folder / "model.safetensors").items():
        layer = fresh.model.get_submodule(name.removesuffix(".weight"))
        known = bases.weight_of(layer) if isinstance(layer, torch.nn.Linear) else layer.weight
        assert torch.equal(after[name], known + gained.get(name, 0)), name
        quantized += not torch.equal(known, weight)
        # A step of int8 is 2 / 127 / 2 of the largest number, and NF4's widest 0.15 of a block's.
        assert (known - weight).abs().max() <= 0.2 * weight.abs().max()
    assert quantized == 14


def test_no_file_holds_a_path_of_the_machine(merged: Any, new_model: Any, tmp_path: Path) -> None:
    folder = new_model(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": str(folder)}))
    (folder / "trainer_state.json").write_text(json.dumps({"output_dir": str(folder)}))
    _, out = merged(folder, "original")
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert not (out / "trainer_state.json").exists()
    assert json.loads((out / "config.json").read_text()) == config


def test_a_sum_that_the_dtype_cannot_hold_is_refused(merged: Any, new_model: Any, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    folder = new_model(tmp_path / "base")
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    with pytest.raises(BaseError, match=r"q_proj.weight: with the adapter in it, torch.float16 cannot hold"):
        merged(folder, "original", {"std": 500.0, "target_modules": ["q_proj"]})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_files_that_call_weights_otherwise_are_refused(new_model: Any, tmp_path: Path) -> None:
    folder = new_model(tmp_path / "base")
    (tmp_path / "out").mkdir()
    with pytest.raises(BaseError, match=r"its files have no tensor blocks.0.weight, but call that weight otherwise"):
        bases.rewrite(folder, tmp_path / "out", {"blocks.0.weight": lambda stored: stored})
    name = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(BaseError, match=r"k_proj.weight is \[16, 32\] in the base's files, but \[32, 16\] in its"):
        bases.rewrite(folder, tmp_path / "out", {name: lambda stored: stored.t()})
