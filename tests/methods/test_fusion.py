"""Fusions: the papers' attention over frozen LoRA adapters, on any base, beside other adapters."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pefttune import methods
from pefttune.errors import BaseError
from pefttune.inference import Session
from pefttune.methods.lora_layer import LoraLinear
from pefttune.recipe import adapters as sections

IDS = torch.arange(5, 40)[None]
MEMBERS = (
    sections.Lora(method="lora", r=4),
    sections.Lora(method="lora", r=2, lora_alpha=6, use_rslora=True, target_modules=("q_proj", "down_proj")),
    sections.Lora(method="lora", r=3, layers="top-1"),
)
# float32: B A x with A scaled, rows of all members in one product, is the same sum in another order.
ORDER_OF_SUMS = 1e-5


def section(members: Any = MEMBERS, **changes: Any) -> sections.Fusion:
    names = [f"member-{i}" for i in range(len(members))]
    return sections.Fusion(**{"method": "fusion", "adapters": names, "members": members, **changes})


def moved(adapter: Any, std: float = 0.2, seed: int = 3) -> Any:
    """As after training: every weight somewhere else, those of members, too."""
    torch.manual_seed(seed)
    for tensor in adapter.state().values():
        tensor.data.add_(torch.randn_like(tensor) * std)
    return adapter


def filled(adapter: Any, seed: int = 3, std: float = 0.2) -> Any:
    """As it begins: members that do something, and nothing learned."""
    torch.manual_seed(seed)
    adapter.begin_with([{key: torch.randn_like(one) * std for key, one in m.state().items()} for m in adapter._members])
    return adapter


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS, use_cache=False).logits
    return found


class Fused(nn.Module):
    """A linear layer with a fusion, computed as the paper writes it: every member's own output, its query and keys."""

    def __init__(self, inner: nn.Module, updates: list[Any], query: Tensor, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.inner, self.updates, self.learned = inner, updates, (query, key, value)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        query, key, value = self.learned
        outputs = [
            torch.zeros_like(y) if update is None else update[2] * (x @ update[0].T @ update[1].T)
            for update in self.updates
        ]
        scores = [((x @ query.T) * (output @ key.T)).sum(-1) / math.sqrt(len(query)) for output in outputs]
        shares = torch.stack(scores).softmax(0)
        return y + value * sum(share[..., None] * output for share, output in zip(shares, outputs, strict=True))


def as_written(model: Any, adapter: Any) -> Any:
    """Another model with the same weights and the adapter's in it, in which layers are replaced."""
    updates = [member.updates for member in adapter._members]
    state = adapter.parameters
    for layer in dict.fromkeys(key for own in updates for key in own):
        name = layer.removeprefix("base_model.model.")
        learned = [state[f"{layer}.fusion_{part}"] for part in ("query", "key", "value")]
        model.set_submodule(name, Fused(model.get_submodule(name), [own.get(layer) for own in updates], *learned))
    return model


def test_it_computes_what_the_paper_writes_and_nothing_without_weights(model_of: Any) -> None:
    model = model_of("Llama")
    modules, before = list(model.named_modules()), logits(model)
    adapter: Any = methods.attach(model, section())
    methods.activate(model, adapter)
    assert torch.equal(logits(model), before)
    moved(adapter)
    changed, expected = logits(model), logits(as_written(model_of("Llama"), adapter))
    assert not torch.allclose(expected, before, rtol=0.1)
    assert torch.allclose(changed, expected, rtol=0, atol=ORDER_OF_SUMS * float(expected.abs().max()))
    methods.detach(model, adapter)
    assert torch.equal(logits(model), before)
    assert list(model.named_modules()) == modules
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_it_begins_as_the_mean_of_its_members(model_of: Any) -> None:
    """A member that leaves a layer alone adds zero to the mean."""
    model, other = model_of("Llama"), model_of("Llama")
    adapter = filled(methods.attach(model, section()))
    for member in adapter._members:
        for layer, (a, b, scale) in member.updates.items():
            linear = other.get_submodule(layer.removeprefix("base_model.model."))
            linear.weight.data += scale / len(MEMBERS) * b @ a
    methods.activate(model, adapter)
    expected = logits(other)
    assert torch.allclose(logits(model), expected, rtol=0, atol=ORDER_OF_SUMS * float(expected.abs().max()))


@pytest.mark.parametrize("quantization", ["none", "bfloat16", "nf4", "int8"])
def test_only_the_fusion_learns_in_ten_steps_and_is_read_back_with_its_members(
    learn: Any, base_of: Any, quantization: str, tmp_path: Path
) -> None:
    half = quantization == "bfloat16"
    base = base_of(dtype="bfloat16") if half else base_of(quantization=quantization)
    model, digest, before = base.model, base.digest(), logits(base.model)
    adapter = filled(methods.attach(model, section()))
    assert not any(parameter.requires_grad for parameter in adapter.parameters.values())
    members = {key: tensor.clone() for key, tensor in adapter.state().items() if key.startswith("members.")}
    methods.activate(model, adapter)
    begun = logits(model)
    learn(adapter, lambda: model(IDS, labels=IDS, use_cache=False).loss)
    learned = [key for key, tensor in adapter.state().items() if tensor.grad is not None]
    assert learned == list(adapter.parameters)
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters.values())
    assert not any(parameter.grad is not None for name, parameter in model.named_parameters() if "fusion" not in name)
    adapter.train(False)
    trained = logits(model)
    assert not torch.equal(trained, begun)
    assert all(torch.equal(adapter.state()[key], tensor) for key, tensor in members.items())
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.state()), "tiny", None)
    again: Any = methods.attach(model, section())
    methods.weights.fill(again.state(), methods.weights.read(tmp_path, again.state()))
    methods.activate(model, again)
    assert torch.equal(logits(model), trained)
    for one in (adapter, again):
        methods.detach(model, one)
    assert torch.equal(logits(model), before)
    assert base.digest() == digest


def test_names_and_shapes_of_what_it_learns(model_of: Any) -> None:
    adapter = methods.attach(model_of("Llama"), section(MEMBERS[1:2] * 2, r=5))
    layer = "base_model.model.model.layers.1.mlp.down_proj"
    learned = {key: tuple(p.shape) for key, p in adapter.parameters.items() if key.startswith(layer)}
    assert learned == {
        f"{layer}.fusion_query": (5, 64),
        f"{layer}.fusion_key": (5, 32),
        f"{layer}.fusion_value": (32,),
    }
    assert {key for key in adapter.state() if "layers.1.mlp.down_proj.lora" in key} == {
        f"members.{member}.{layer}.lora_{half}.weight" for member in (0, 1) for half in "AB"
    }
    assert adapter.first_layer == 0
    assert methods.attach(model_of("Llama"), section(MEMBERS[2:] * 2)).first_layer == 1


@pytest.mark.parametrize("order", list(itertools.permutations(("lora", "fusion", "other", "ia3"))))
def test_beside_other_adapters_in_any_order(model_of: Any, order: tuple[str, ...]) -> None:
    configs = {
        "lora": sections.Lora(method="lora", r=4),
        "fusion": section(),
        "other": section(MEMBERS[:2]),
        "ia3": sections.Ia3(method="ia3"),
    }
    model, found = model_of("Llama"), {}
    before = logits(model)
    on_it = {name: moved(methods.attach(model, configs[name])) for name in order}
    for name, adapter in on_it.items():
        methods.activate(model, adapter)
        found[name] = logits(model)
        alone = model_of("Llama")
        again = methods.attach(alone, configs[name])
        methods.weights.fill(again.state(), adapter.state())
        methods.activate(alone, again)
        assert torch.equal(logits(alone), found[name])
    assert len({tensor.sum().item() for tensor in found.values()}) == len(order)
    for name in order:  # the first goes first
        methods.detach(model, on_it.pop(name))
        for rest, adapter in on_it.items():
            methods.activate(model, adapter)
            assert torch.equal(logits(model), found[rest])
    methods.activate(model)
    assert torch.equal(logits(model), before)
    assert not any(isinstance(one, LoraLinear) or one._forward_hooks for one in model.modules())


@pytest.fixture(params=["decoder", "encoder"])
def session(request: pytest.FixtureRequest, base_of: Any, tiny_encoder: Path, adapted: Any) -> Session:
    """A LoRA, a bottleneck adapter and two fusions, all with heads."""
    encoder = request.param == "encoder"
    session = Session(base_of(tiny_encoder) if encoder else base_of())
    task = adapted(session, "lora", approach="head").task
    members = (MEMBERS[0], MEMBERS[2])
    configs = {
        "bottleneck": sections.Bottleneck(method="bottleneck", reduction_factor=4),
        "fusion": section(members),
        "other": section((*members, MEMBERS[0]), r=1),
    }
    for number, (name, config) in enumerate(configs.items()):
        loaded = session.add(name, session.attach(task, config, 256))
        moved(loaded.adapter, seed=number)
        for parameter in loaded.head.parameters():
            parameter.data.normal_(std=0.2)
    return session


NAMES = ("lora", "bottleneck", "fusion", "other")
TEXTS = ["a film", "poor, dull, cold and rather longer than the others are", "x", "bright and warm"]


def test_rows_of_several_share_a_pass_and_get_what_their_adapter_says_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(session.predict(TEXTS, NAMES))  # finds out whether batches can be ragged
    model, passes = session.base.model.base_model, []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: passes.append(1) or forward(**inputs))
    mixed = list(session.predict(TEXTS * 2, NAMES * 2))
    assert len(passes) == 1
    for text, name, prediction in zip(TEXTS * 2, NAMES * 2, mixed, strict=True):
        alone = next(iter(session.predict([text], name)))
        assert prediction.probabilities == pytest.approx(alone.probabilities, rel=1e-4)
    assert len({prediction.confidence for prediction in mixed[:4]}) == 4


def test_adapters_that_learn_together_get_the_gradients_of_each_alone(
    session: Session, examples_of: Any, ragged: Any
) -> None:
    batches = []
    for number, name in enumerate(NAMES):
        examples = examples_of(session[name], ragged[number : number + 3])
        session.collator.try_ragged(examples)
        batches.append((name, session.collator.batch(examples, range(3), None, every_answer=True)))
        session[name].train(True)
    torch.stack(session.losses(batches)).sum().backward()
    together = {(name, key): p.grad for name in NAMES for key, p in session[name].parameters.items()}
    for name, batch in batches:
        for parameter in session[name].parameters.values():
            parameter.grad = None
        session.loss(name, batch).backward()
        for key, parameter in session[name].parameters.items():
            assert parameter.grad.any(), key
            other = together[name, key]
            assert (other - parameter.grad).norm() <= ORDER_OF_SUMS * 10 * parameter.grad.norm() + 1e-7, key


def test_members_that_others_read_take_no_place_in_tables(model_of: Any) -> None:
    """Four adapters act at once, which is when tables are made; two more are members of a fusion."""
    model = model_of("Llama")
    methods.attach(model, section(MEMBERS[:2]))
    lora = sections.Lora(method="lora", r=2)
    on_it: list[Any] = [methods.attach(model, lora) for _ in range(3)]
    assert methods.tables_nbytes(model) == 0
    on_it.append(methods.attach(model, lora))
    assert methods.tables_nbytes(model) == sum(p.nbytes for one in on_it for p in one.parameters.values())
    methods.activate(model, *on_it, rows=[slice(8 * n, 8 * n + 8) for n in range(4)])
    logits(model)
    layers = [one for one in model.modules() if isinstance(one, LoraLinear)]
    assert {len(one._tables.places) for one in layers if one._tables} == {4}
    assert sum(t.nbytes for one in layers for t in (one._tables.a_nrI, one._tables.b_nOr)) == methods.tables_nbytes(
        model
    )


def test_without_the_sections_of_its_members_it_is_not_attached(model_of: Any) -> None:
    with pytest.raises(BaseError, match=r"adapter.members: a fusion can be attached only with the sections of"):
        methods.attach(model_of("Llama"), section((), adapters=["a", "b"]))


def test_a_fusion_that_fails_takes_its_members_off(model_of: Any) -> None:
    model = model_of("Llama")
    before = dict(model.named_modules())
    wrong = sections.Lora(method="lora", r=4, rank_pattern={"model.layers.9.mlp.up_proj": 2})
    with pytest.raises(BaseError, match=r"model\.layers\.9"):
        methods.attach(model, section((MEMBERS[0], wrong), adapters=["a", "b"]))
    assert dict(model.named_modules()) == before
