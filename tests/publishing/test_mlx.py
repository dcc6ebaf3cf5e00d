"""The folder that mlx-lm loads: what it holds, and what mlx-lm computes with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pefttune.errors import AdapterError, VerificationError
from pefttune.publishing import mlx, write_mlx
from pefttune.publishing.architectures import MLX
from pefttune.publishing.low_rank import Update


def written(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads((folder / mlx.CONFIG).read_text()), load_file(folder / mlx.WEIGHTS)


def test_mlx_computes_the_same(kind: str, others: SimpleNamespace, tmp_path: Path) -> None:
    core = pytest.importorskip("mlx.core", reason="no mlx: pip install 'pefttune[mlx]'")
    lm = pytest.importorskip("mlx_lm.utils", reason="no mlx-lm: pip install 'pefttune[mlx]'")
    model = others.model(kind)
    updates = others.updates(model, "layers.1")
    model.save_pretrained(tmp_path / "base")
    write_mlx(tmp_path, updates, model.config, others.manifest)
    # It looks for this where configurations had it before transformers 5.
    loaded, _ = lm.load_model(tmp_path / "base", model_config={"rope_theta": 1e4})

    def theirs() -> torch.Tensor:
        logits = [loaded(core.array([ids]))[0, -1].tolist() for ids in others.prompts]
        return torch.tensor(logits, dtype=torch.float64).log_softmax(-1)

    alone, adapted, most = others.logprobs(model, {}), others.logprobs(model, updates), others.tolerance(kind)
    assert (alone - adapted).abs().max() > 10 * most, "the adapter does too little to be told from none"
    assert (theirs() - alone).abs().max() <= most
    loaded = lm.load_adapters(loaded, str(tmp_path))
    loaded.eval()
    assert (theirs() - adapted).abs().max() <= most


def test_every_architecture_is_tried(others: SimpleNamespace, kinds: tuple[str, ...]) -> None:
    assert {others.model(kind).config.model_type for kind in kinds} == set(MLX)


def test_one_rank_and_one_scale_say_what_many_did(others: SimpleNamespace, tmp_path: Path) -> None:
    """What mlx-lm's LoRALinear computes of the file, beside PEFT's scale · B · A."""
    model = others.model("Llama")
    updates = others.updates(model)
    write_mlx(tmp_path, updates, model.config, others.manifest)
    config, tensors = written(tmp_path)
    rank, scale = config["lora_parameters"]["rank"], config["lora_parameters"]["scale"]
    assert rank == max(update.rank for update in updates.values()) > min(update.rank for update in updates.values())
    for name, update in updates.items():
        a_Ir, b_rO = tensors.pop(f"{name}.lora_a"), tensors.pop(f"{name}.lora_b")
        assert (a_Ir.shape[1], b_rO.shape[0]) == (rank, rank)
        x = torch.randn(3, len(a_Ir))
        right = update.scale * (x @ update.a_rI.t() @ update.b_Or.t())
        assert torch.allclose(scale * (x @ a_Ir @ b_rO), right, rtol=1e-5, atol=1e-6)  # one rounding of B
    assert not tensors


def test_numbers_that_need_no_folding_are_the_adapters(others: SimpleNamespace, tmp_path: Path) -> None:
    model = others.model("Llama")
    name = "model.layers.1.mlp.up_proj"
    update = Update(torch.randn(4, 32), torch.randn(64, 4), 2.5)
    write_mlx(tmp_path, {name: update}, model.config, others.manifest)
    config, tensors = written(tmp_path)
    assert config == {
        "fine_tune_type": "lora",
        "model": "tiny",
        "num_layers": 1,  # counted from the top, of two
        "lora_parameters": {"rank": 4, "scale": 2.5, "dropout": 0.0, "keys": ["mlp.up_proj"]},
    }
    assert torch.equal(tensors[f"{name}.lora_a"], update.a_rI.t())
    assert torch.equal(tensors[f"{name}.lora_b"], update.b_Or.t())


def test_a_module_in_no_layer_is_refused(others: SimpleNamespace, tmp_path: Path) -> None:
    updates = {"model.projector": Update(torch.ones(1, 32), torch.ones(16, 1), 1.0)}
    with pytest.raises(AdapterError, match=r"model.projector is in none; .*--to merged"):
        write_mlx(tmp_path, updates, others.model("Llama").config, others.manifest)


def test_what_is_read_back_otherwise_is_refused(
    others: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(tensors: dict[str, torch.Tensor], path: Path, **about: Any) -> None:
        save_file({**tensors, "model.layers.0.mlp.up_proj.lora_b": torch.zeros(6, 64)}, path)

    monkeypatch.setattr(mlx, "save_file", other)
    model = others.model("Llama")
    with pytest.raises(VerificationError, match=r"adapters.safetensors: model.layers.0.mlp.up_proj was read back"):
        write_mlx(tmp_path, others.updates(model), model.config, others.manifest)
