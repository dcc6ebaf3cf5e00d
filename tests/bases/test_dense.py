"""A 4-bit base dequantized once is, to the bit, the function that bitsandbytes computes anew in every pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from pefttune.bases import dense

IDS = torch.tensor([[5, 80, 33, 12, 240], [9, 8, 7, 6, 5]])


@pytest.fixture(scope="module")
def wide(new_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of many blocks, the last of them not full: 96 · 96 / 64 is 144, 96 · 40 / 64 is 60; double quantization
    wants 256 of them and more."""
    sizes = {"hidden_size": 192, "intermediate_size": 200, "attention_bias": True, "mlp_bias": True}
    return Path(new_model(tmp_path_factory.mktemp("wide") / "wide", **sizes))


def four_bit(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_bitsandbytes_own_to_the_bit(
    wide: Path, base_of: Any, kind: str, double: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"quantization": kind, "double_quantization": double, "dtype": dtype}
    ours = base_of(wide, **asked)
    assert four_bit(ours.model) == []
    with monkeypatch.context() as patch:
        patch.setattr(dense, "PART_OF_FREE_MEMORY", 0)
        theirs = base_of(wide, **asked)
    assert len(four_bit(theirs.model)) == 14
    embeddings = [base.model.get_input_embeddings()(IDS).detach().requires_grad_() for base in (ours, theirs)]
    logits = [
        base.model(inputs_embeds=entering).logits for base, entering in zip((ours, theirs), embeddings, strict=True)
    ]
    assert torch.equal(*logits)
    gradients = [torch.autograd.grad(some.float().sum(), x)[0] for some, x in zip(logits, embeddings, strict=True)]
    # Its backward pass multiplies the same numbers; transposed or not, so perhaps in another order.
    assert (gradients[0] - gradients[1]).float().norm() <= 1e-2 * gradients[1].float().norm()
    with torch.no_grad():
        assert torch.equal(ours.model(IDS).logits, theirs.model(IDS).logits)
    assert ours.fingerprint == theirs.fingerprint


def test_a_dense_layer_is_frozen_in_the_compute_dtype_and_has_its_bias(wide: Path, base_of: Any) -> None:
    model = base_of(wide, quantization="nf4", dtype="bfloat16").model
    layer = model.model.layers[0].mlp.up_proj
    assert type(layer) is torch.nn.Linear
    assert (layer.weight.dtype, tuple(layer.weight.shape)) == (torch.bfloat16, (200, 192))
    assert layer.bias is not None
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not layer.training
    # At most 16 values times a scale for each block of 64.
    assert len(layer.weight[0, :64].unique()) <= 16


def test_it_is_done_where_it_fits_and_only_there(base_of: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 64) * 4  # q, o, k, v, and the MLP of two layers in float32
    for free, expected in ((4 * needed, 0), (4 * needed - 4, 14)):
        monkeypatch.setattr(dense, "_free_bytes", lambda device, free=free: free)
        assert len(four_bit(base_of(quantization="nf4").model)) == expected


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_there_is_nothing_to_do_for_other_bases(base_of: Any, quantization: str) -> None:
    base = base_of(quantization=quantization)
    assert not dense.dequantize_if_room(base.model, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(("limit", "dense"), [("max", True), ("1000000", False), (str(2**40), True)])
def test_a_container_s_limit_counts(
    base_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, dense: bool
) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text("999999\n")
    monkeypatch.setattr("pefttune.bases.dense.CONTROL_GROUP", tmp_path)
    assert base_of(quantization="nf4").dense is dense
