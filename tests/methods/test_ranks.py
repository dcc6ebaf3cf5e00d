"""Ranks of single modules, where measured ones go, and the directions they begin along: PEFT's, from less memory."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from pefttune import methods
from pefttune.errors import BaseError
from pefttune.inference import Session, input_sketches
from pefttune.recipe.adapters import Lora

IDS = torch.arange(5, 40)[None]
PATTERN = {"model.layers.0.mlp.up_proj": 9, "model.layers.1.self_attn.v_proj": 1, "model.layers.1.mlp.down_proj": 0}


def lora(**changes: Any) -> Lora:
    return Lora.model_validate({"method": "lora", "r": 4, **changes})


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS, use_cache=False).logits
    return found


def moved(adapter: methods.Adapter) -> methods.Adapter:
    torch.manual_seed(3)
    for parameter in adapter.parameters.values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return adapter


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("alpha", [{}, {"lora_alpha": 12}, {"use_rslora": True}, {"lora_alpha": 6, "use_rslora": True}])
def test_plain_peft_computes_the_same(model_of: Any, tmp_path: Any, alpha: dict[str, Any]) -> None:
    model = model_of("Llama")
    adapter = moved(methods.attach(model, lora(rank_pattern=PATTERN, **alpha)))
    methods.activate(model, adapter)
    ours = logits(model)
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.parameters), "tiny", None)
    theirs = peft.PeftModel.from_pretrained(model_of("Llama"), tmp_path)
    layers = {name: one for name, one in theirs.named_modules() if isinstance(one, peft.tuners.lora.LoraLayer)}
    assert len(layers) == 13  # without the one of rank 0
    scales = [one.scaling["default"] for one in layers.values()]
    assert scales == pytest.approx([scales[0]] * 13)
    # PEFT adds the update to the base's product, where ours is added into it: float32 rounds the last bit otherwise.
    torch.testing.assert_close(logits(theirs), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("init", ["default", "pissa"])
def test_alphas_of_modules_are_those_of_plain_peft(model_of: Any, tmp_path: Any, root: bool, init: str) -> None:
    up, query = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"
    model, alphas = model_of("Llama"), {up: 5.0, query: 0.5}
    config = lora(rank_pattern=PATTERN, alpha_pattern=alphas, use_rslora=root, init_lora_weights=init)
    adapter = moved(methods.attach(model, config))
    methods.activate(model, adapter)
    ours = logits(model)
    state = methods.weights.copied(adapter.state())
    methods.weights.write(tmp_path, adapter.config(), state, "tiny", None)
    theirs = peft.PeftModel.from_pretrained(model_of("Llama"), tmp_path)
    layers = {name: one for name, one in theirs.named_modules() if isinstance(one, peft.tuners.lora.LoraLayer)}
    scales = {name.removeprefix("base_model.model."): one.scaling["default"] for name, one in layers.items()}
    assert scales[up] == pytest.approx(5 / (9**0.5 if root else 9))
    assert scales[query] == pytest.approx(0.5 / (2 if root else 4))
    assert scales["model.layers.1.self_attn.k_proj"] == pytest.approx(8 / (2 if root else 4))
    updates = methods.parts_of(state, config.stored(), tmp_path).updates
    told = {name.removeprefix("base_model.model."): scale for name, (_, _, scale) in updates.items()}
    assert told == pytest.approx(scales)
    torch.testing.assert_close(logits(theirs), ours, rtol=1e-5, atol=1e-5)  # as above


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_ranks_of_modules_and_the_way_back(base_of: Any, quantization: str) -> None:
    model = base_of(quantization=quantization).model
    bare = logits(model)
    adapter = moved(methods.attach(model, lora(rank_pattern=PATTERN)))
    ranks = {key.removeprefix("base_model.model."): len(p) for key, p in adapter.parameters.items() if "lora_A" in key}
    assert ranks["model.layers.0.mlp.up_proj.lora_A.weight"] == 9
    assert ranks["model.layers.1.self_attn.v_proj.lora_A.weight"] == 1
    assert sorted(ranks.values()) == [1, *[4] * 11, 9]
    methods.activate(model, adapter)
    trained = logits(model)
    again = methods.attach(model, lora(rank_pattern=PATTERN))
    methods.weights.fill(again.parameters, methods.weights.copied(adapter.parameters))
    methods.activate(model, again)
    assert torch.equal(logits(model), trained)
    for one in (adapter, again):
        methods.detach(model, one)
    assert torch.equal(logits(model), bare)
    assert not torch.equal(trained, bare)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"r": 17}, r"adapter\.r: 17 is over the rank of model\.layers\.0\.self_attn\.k_proj, .* give 16 at most"),
        (
            {"rank_pattern": {"model.layers.1.mlp.up_proj": 33}},
            r"adapter\.rank_pattern: 33 is over the rank of model\.layers\.1\.mlp\.up_proj, .* give 32 at most",
        ),
        (
            {"rank_pattern": {"model.layers.1.mlp.up_prj": 2}},
            r"'model\.layers\.1\.mlp\.up_prj' is none of the 14 .*; did you mean 'model\.layers\.1\.mlp\.up_proj'\?",
        ),
        (
            {"alpha_pattern": {"model.layers.1.mlp.up_prj": 2}},
            r"adapter\.alpha_pattern: 'model\.layers\.1\.mlp\.up_prj' is none of the 14 modules",
        ),
        (
            {"rank_pattern": {".*": 2}},
            r"'\.\*' is none of the 14 modules to adapt; the first of them is 'model\.layers\.0",
        ),
        (
            {"rank_pattern": {"model.layers.0.mlp.up_proj": 2}, "layers": [1]},
            r"'model\.layers\.0\.mlp\.up_proj' is none of the 7 modules to adapt",
        ),
        (
            {"rank_pattern": {"model.layers.0.mlp.up_proj": 0}, "layers": [0], "target_modules": ["up_proj"]},
            "every rank is 0",
        ),
    ],
)
def test_ranks_that_cannot_be(model_of: Any, changes: dict[str, Any], told: str) -> None:
    model = model_of("Llama")
    modules = dict(model.named_modules())
    with pytest.raises(BaseError, match=told):
        methods.attach(model, lora(**changes))
    assert dict(model.named_modules()) == modules


def test_ranks_go_where_they_explain_most_for_their_cost() -> None:
    explained = {"wide": (0.5, 0.3, 0.1), "narrow": (0.2, 0.1)}
    assert methods.spend(explained, {"wide": 1, "narrow": 1}, 3) == {"wide": 2, "narrow": 1}
    assert methods.spend(explained, {"wide": 10, "narrow": 1}, 12) == {"wide": 1, "narrow": 2}
    assert methods.spend(explained, {"wide": 10, "narrow": 1}, 9) == {"wide": 0, "narrow": 2}  # what it cannot pay
    assert methods.spend(explained, {"wide": 10, "narrow": 1}, 999) == {"wide": 3, "narrow": 2}
    assert methods.spend(explained, {"wide": 10, "narrow": 1}, 11) == {"wide": 0, "narrow": 2}


def test_what_layers_may_have_at_most_is_enough_to_spend_the_budget() -> None:
    sizes = {"wide": (100, 100), "narrow": (4, 4)}
    assert methods.full_ranks(sizes) == {"wide": 100, "narrow": 4}
    assert methods.most_ranks(sizes, 2080, 2.0) == {"wide": 20, "narrow": 4}
    assert methods.most_ranks(sizes, 208, 1.0) == {"wide": 1, "narrow": 1}
    assert methods.most_ranks(sizes, 20_032, 1.0) == {"wide": 100, "narrow": 4}


def test_where_twice_the_rank_is_saved_a_layer_has_room_for_half() -> None:
    sizes = {"wide": (100, 2000), "huge": (5000, 4000), "narrow": (7, 40), "single": (100, 1)}
    assert methods.full_ranks(sizes, 2) == {"wide": 50, "huge": 1024, "narrow": 3, "single": 0}
    assert methods.most_ranks({"wide": (100, 100), "narrow": (4, 4)}, 2080, 2.0, 2) == {"wide": 20, "narrow": 2}
    assert methods.most_ranks({"wide": (100, 100), "narrow": (4, 4)}, 20_032, 2.0, 2) == {"wide": 50, "narrow": 2}


def covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Directions and parts of the variance by plain SVD of the centred inputs."""
    centred = x.double() - x.double().mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    return v, s.square() / s.square().sum()


def test_a_sketch_of_narrow_inputs_is_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 12) * torch.arange(1, 13) + 100 * torch.randn(12)  # means far larger than what varies
    sketch = methods.Sketch(12, 5, torch.device("cpu"))
    for part in x.split(33):
        sketch.add(part)
        assert sketch.spectrum() is sketch.spectrum()  # decomposed once, until there are more inputs
    spectrum, (v, parts) = sketch.spectrum(), covariance(x)
    assert spectrum.explained_k == pytest.approx(parts[:5].tolist(), rel=1e-9)
    # Both are unit vectors up to their sign; float32 keeps 7 digits.
    assert (spectrum.components_kI.double() * v[:5]).sum(1).abs().tolist() == pytest.approx([1] * 5, abs=1e-6)


def test_a_sketch_of_wide_inputs_keeps_nearly_all_that_the_best_directions_explain() -> None:
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(300, 300)).Q
    x = (torch.randn(2000, 300) * torch.arange(1, 301) ** -0.7) @ turn  # as slow as activations fall, or slower
    sketch = methods.Sketch(300, 8, torch.device("cpu"))
    sketch.add(x)
    assert sketch._products_IL.shape == (300, 32)
    found, (_, parts) = sketch.spectrum(), covariance(x)
    centred = x.double() - x.double().mean(0)
    kept = (centred @ found.components_kI.double().t()).square().sum() / centred.square().sum()
    assert float(kept) > 0.99 * float(parts[:8].sum())  # 0.995; with half of the columns 0.977
    # The approximation is never above the covariance itself.
    assert 0.9 * float(kept) < sum(found.explained_k) <= float(kept)


def test_a_sketch_of_few_or_equal_inputs_has_only_the_directions_there_are() -> None:
    sketch = methods.Sketch(40, 8, torch.device("cpu"))
    assert sketch.spectrum().explained_k == ()
    sketch.add(torch.ones(5, 40))
    assert sketch.spectrum().explained_k == ()
    sketch.add(torch.zeros(1, 40))
    assert sketch.spectrum().explained_k == pytest.approx((1.0,))
    a_rI, b_Or = methods.eva(torch.nn.Linear(40, 6), sketch.spectrum(), 3)
    torch.testing.assert_close(a_rI[0].abs(), torch.full((40,), 40**-0.5))
    assert a_rI.any(1).all()  # the others at random
    assert not b_Or.any()


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_directions_are_those_of_pefts_eva(base_of: Any, adapted: Any, examples_of: Any, ragged: Any) -> None:
    base = base_of()
    session = Session(base)
    loaded = adapted(session, "a")
    examples = examples_of(loaded, ragged)[:1]
    linears = methods.lora_targets(base.model, lora())
    sketches = input_sketches(session, linears, dict.fromkeys(linears, 16), examples)  # of 16 the first 4 are exact
    inputs: dict[str, Tensor] = {}
    session.remove("a")
    for name, linear in linears.items():
        linear.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0][0].double()}))
    config = peft.LoraConfig(
        r=4, init_lora_weights="eva", target_modules="all-linear", eva_config=peft.EvaConfig(rho=1.0)
    )
    theirs = peft.get_peft_model(base.model, config, low_cpu_mem_usage=True)
    only = examples[0]
    ids = torch.tensor([[*only.prompt, *only.answers[only.target][:-1]]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    peft.initialize_lora_eva_weights(theirs, [batch], show_progress_bar=False)
    assert len(sketches) == 14
    for name, sketch in sketches.items():
        spectrum = sketch.spectrum()
        centred_RI = inputs[name] - inputs[name].mean(0)
        a_rI = theirs.get_submodule(f"base_model.model.{name}").lora_A["default"].weight
        apart_Ir = torch.linalg.qr(a_rI.detach().double().t()).Q  # its rows are not quite orthogonal
        by_peft = (centred_RI @ apart_Ir).square().sum()
        kept = (centred_RI @ spectrum.components_kI[:4].double().t()).square().sum()
        # PEFT reads the batch twice, keeps four directions between, and takes them by a randomized SVD: of directions
        # that explain nearly the same it may choose others.
        assert 0.95 * kept < by_peft < 1.0001 * kept, name
        assert abs(float(a_rI[0] @ spectrum.components_kI[0])) > 0.9, name
