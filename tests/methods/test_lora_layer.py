"""The LoRA layer computes the textbook's formula, forwards and backwards, for any number of adapters on their rows."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor, nn

from pefttune import methods
from pefttune.methods.initial import default
from pefttune.methods.lora_layer import Acting, LoraLinear, LowRankLinear, LowRankUpdate
from pefttune.recipe.adapters import Lora

I, O, R = 6, 5, 12  # noqa: E741 (the letters of the shapes in lora_layer.py)
UPDATES = {
    "one": [(slice(None), 2.0, 3)],
    "two on their rows": [(slice(0, 7), 0.5, 2), (slice(7, 12), 2.0, 4)],
    "rows that nobody has": [(slice(2, 4), 1.5, 1)],
    "two on the same rows": [(slice(None), 1.0, 2), (slice(None), 2.0, 2)],
    "no row": [(slice(3, 3), 1.0, 2), (slice(3, 12), 1.0, 2)],
    "without effect": [(slice(None), 0.0, 2)],
}
# float64 keeps 53 bits and float32 24: the same few products of about 1 in another order.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-5}


def tensors(dtype: torch.dtype, updates: Any, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
    torch.manual_seed(0)
    low_rank = [x for _, _, r in updates for x in (torch.randn(r, I, dtype=dtype), torch.randn(O, r, dtype=dtype))]
    x, weight = torch.randn(R, I, dtype=dtype), torch.randn(O, I, dtype=dtype)
    return x, weight, torch.randn(O, dtype=dtype) if bias else None, [each.requires_grad_() for each in low_rank]


def textbook(base: Tensor, updates: Any, inputs: list[Tensor], low_rank: list[Tensor]) -> Tensor:
    total = base
    for i, (rows, scale, _) in enumerate(updates):
        a, b = low_rank[2 * i : 2 * i + 2]
        own = torch.zeros_like(base)
        own[rows] = scale * (inputs[i] @ a.T @ b.T)
        total = total + own
    return total


def near(ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        # Gradients of the masters are float32 by design, also where the test computes in float64.
        assert (one.to(dtype) - other).abs().max() <= ROUNDING[dtype] * max(1.0, float(other.detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", [True, False], ids=["x with gradient", "x without"])
@pytest.mark.parametrize("name", UPDATES)
def test_a_dense_layer_is_the_textbooks(dtype: torch.dtype, bias: bool, learns: bool, name: str) -> None:
    updates = UPDATES[name]
    x, weight, b, low_rank = tensors(dtype, updates, bias)
    x.requires_grad_(learns)
    ours = LowRankLinear.apply(x, weight, b, [(rows, scale) for rows, scale, _ in updates], *low_rank)
    theirs = textbook(nn.functional.linear(x, weight, b), updates, [x[rows] for rows, _, _ in updates], low_rank)
    near([ours], [theirs], dtype)
    asked, upon = [x, *low_rank] if learns else low_rank, torch.randn_like(ours)
    near(torch.autograd.grad(ours, asked, upon), torch.autograd.grad(theirs, asked, upon), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", UPDATES)
def test_an_update_of_dropped_inputs_is_the_textbooks(dtype: torch.dtype, name: str) -> None:
    updates = UPDATES[name]
    x, weight, bias, low_rank = tensors(dtype, updates, True)
    x.requires_grad_()
    kept = [torch.bernoulli(torch.full((len(x[rows]), I), 0.5, dtype=dtype)) * 2 for rows, _, _ in updates]
    y = nn.functional.linear(x, weight, bias)
    inputs = [x[rows] * mask for (rows, _, _), mask in zip(updates, kept, strict=True)]
    ours = LowRankUpdate.apply(y, [(rows, scale) for rows, scale, _ in updates], *inputs, *low_rank)
    theirs = textbook(y, updates, inputs, low_rank)
    near([ours], [theirs], dtype)
    asked, upon = [x, *low_rank], torch.randn_like(ours)
    mine = torch.autograd.grad(ours, asked, upon, retain_graph=True)
    near(mine, torch.autograd.grad(theirs, asked, upon), dtype)
    assert torch.equal(y, nn.functional.linear(x, weight, bias)), "the base's own output was written to"


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_in_bfloat16_masters_and_their_gradients_are_float32(dropout: float) -> None:
    acting: list[Acting] = []
    layer = LoraLinear(nn.Linear(I, O, dtype=torch.bfloat16).requires_grad_(False), acting)
    layer.add("s", *default(layer.base_layer, 2, 1.0, torch.float32), 1.0, dropout)
    layer.lora_dropout.train()
    acting.append(Acting("s", slice(None)))
    layer.lora_B["s"].data.normal_()
    layer.requires_grad_(True)
    out = layer(torch.randn(2, 3, I, dtype=torch.bfloat16))
    assert out.shape == (2, 3, O)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    for weight in (layer.lora_A["s"], layer.lora_B["s"]):
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert weight.grad.any()


def layer_with(*slots: str, dropout: float = 0.0) -> tuple[LoraLinear, list[Acting]]:
    acting: list[Acting] = []
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(I, O).requires_grad_(False), acting)
    for slot in slots:
        layer.add(slot, *default(layer.base_layer, 2, 1.5, torch.float32), 1.5, dropout)
        layer.lora_B[slot].data.normal_()
    return layer, acting


@torch.no_grad()
def test_adapters_side_by_side_give_what_each_gives_alone() -> None:
    layer, acting = layer_with("a", "b")
    x = torch.randn(1, 9, I)
    bare = layer(x)
    assert torch.equal(bare, layer.base_layer(x))
    alone = {}
    for slot in "ab":
        acting[:] = [Acting(slot, slice(None))]
        alone[slot] = layer(x)
    acting[:] = [Acting("a", slice(0, 4)), Acting("b", slice(4, 7)), Acting("elsewhere", slice(7, 9))]
    together = layer(x)
    # A product of fewer rows may take another kernel: float32's last bits of values about 1.
    assert (together[:, :4] - alone["a"][:, :4]).abs().max() < 1e-6
    assert (together[:, 4:7] - alone["b"][:, 4:7]).abs().max() < 1e-6
    assert (together[:, 7:] - bare[:, 7:]).abs().max() < 1e-6
    acting.clear()
    assert torch.equal(layer(x), bare)


def test_one_adapters_dropout_is_not_anothers() -> None:
    layer, acting = layer_with("calm", "dropping", dropout=0.5)
    layer.lora_dropout["dropping"].train()
    acting[:] = [Acting("calm", slice(0, 4)), Acting("dropping", slice(4, 9))]
    x = torch.randn(9, I)
    first, second = layer(x), layer(x)
    assert torch.equal(first[:4], second[:4])
    assert not torch.equal(first[4:], second[4:])


def test_what_is_removed_is_gone() -> None:
    layer, acting = layer_with("a", "b")
    acting[:] = [Acting("a", slice(None))]
    x = torch.randn(3, I)
    layer.remove("a")
    assert torch.equal(layer(x), layer.base_layer(x))
    assert {name for name, _ in layer.named_parameters()} == {
        "base_layer.weight", "base_layer.bias", "lora_A.b", "lora_B.b"
    }  # fmt: skip
    assert layer.weight is layer.base_layer.weight


def test_a_new_update_has_pefts_initial_values_and_no_effect() -> None:
    from peft import LoraConfig, get_peft_model

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(I, O)

    torch.manual_seed(0)
    model = Model()
    torch.manual_seed(7)
    theirs = get_peft_model(model, LoraConfig(r=2, target_modules=["one"])).base_model.model.one
    layer = LoraLinear(nn.Linear(I, O).requires_grad_(False), [])
    torch.manual_seed(7)
    layer.add("s", *default(layer.base_layer, 2, 1.0, torch.float32), 1.0, 0.0)
    assert torch.equal(layer.lora_B["s"], theirs.lora_B["default"].weight)
    # PEFT makes its own nn.Linear first, which draws once: the same distribution, so the same bounds.
    bound = I**-0.5
    assert float(layer.lora_A["s"].detach().abs().max()) <= bound
    assert float(theirs.lora_A["default"].weight.detach().abs().max()) <= bound
    assert not layer.lora_B["s"].any()


def test_another_adapter_is_a_pointer(base_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of()
    adapters = [methods.attach(base.model, Lora(method="lora", r=2)) for _ in range(2)]
    walked: list[Any] = []
    for name in ("modules", "named_modules", "parameters", "named_parameters", "apply", "set_submodule"):
        honest = getattr(nn.Module, name)
        monkeypatch.setattr(
            nn.Module, name, lambda self, *a, _honest=honest, **how: walked.append(self) or _honest(self, *a, **how)
        )
    for adapter in (*adapters, None, adapters[0]):
        methods.activate(base.model, adapter)
    assert walked == []


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_layer_keeps_its_own_product(base_of: Any, quantization: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
    base = base_of(quantization=quantization)
    adapter = methods.attach(base.model, Lora(method="lora", r=2, target_modules=["up_proj"], layers=[1]))
    torch.manual_seed(0)
    for parameter in adapter.parameters.values():
        parameter.data.normal_()
    layer = base.model.model.layers[1].mlp.up_proj
    assert isinstance(layer.base_layer, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)
    methods.activate(base.model, adapter)
    adapter.train(True)
    x = torch.randn(4, 32, requires_grad=True)
    a, b = adapter.parameters.values()
    ours, theirs = layer(x), layer.base_layer(x) + 2.0 * (x @ a.T @ b.T)  # lora_alpha is 2 · r
    near([ours], [theirs.detach()], torch.float32)
    upon = torch.randn_like(ours)
    near(torch.autograd.grad(ours, [x, a, b], upon), torch.autograd.grad(theirs, [x, a, b], upon), torch.float32)


@pytest.mark.parametrize("ranks", [(R, R, R, R, R), (1, 2, 3, 4, 5)])
def test_many_adapters_at_once_add_what_each_adds_alone(ranks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    acting: list[Acting] = []
    layer = LoraLinear(torch.nn.Linear(I, O), acting)
    for i, r in enumerate(ranks):
        layer.add(f"slot{i}", *default(layer.base_layer, r, 0.5 + i, torch.float32), 0.5 + i, 0.0)
        layer.lora_B[f"slot{i}"].data.normal_()
    x = torch.randn(1, 23, I)
    bounds = [(0, 4), (4, 9), (9, 10), (12, 18), (18, 23)]  # rows 10 and 11 are the base's own
    with torch.no_grad():
        alone = layer(x)
        for i, (start, stop) in enumerate(bounds):
            acting[:] = [Acting(f"slot{i}", slice(start, stop))]
            alone[:, start:stop] = layer(x)[:, start:stop]
        acting[:] = [Acting(f"slot{i}", slice(*own)) for i, own in enumerate(bounds)]
        together = layer(x)
        assert layer._tables is not None
        # The same sums in another order: float32.
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
        layer.lora_B["slot2"].zero_()  # a change is seen
        assert torch.equal(layer(x)[:, 9], layer.base_layer(x)[:, 9])
        assert not torch.equal(layer(x)[:, 8], layer.base_layer(x)[:, 8])
    layer(x)  # in training, an optimizer may write to the weights unseen
    assert layer._tables is None
