"""Methods whose layers are PEFT's own: in place only while they act, and PEFT's to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.ia3 import IA3Layer
from pydantic import TypeAdapter
from torch import Tensor
from transformers import AutoModel

from pefttune import methods
from pefttune.errors import BaseError
from pefttune.inference import Session
from pefttune.recipe import adapters as sections

IDS = torch.arange(5, 40)[None]
SMALL: dict[str, dict[str, Any]] = {
    "dora": {"r": 4},
    "adalora": {"init_r": 4, "target_r": 2},
    "ia3": {},
    "oft": {"oft_block_size": 8},
    "boft": {"boft_block_size": 4},
    "vera": {"r": 16},
    "miss": {"r": 4},
    "ln_tuning": {},
}
METHODS = tuple(SMALL)
WORKING = [
    (method, quantization)
    for method in METHODS
    for quantization in ("none", "nf4", "fp4", "int8")
    if quantization not in sections.METHODS[method].not_on
]


def section(method: str, **changes: Any) -> Any:
    return TypeAdapter(sections.AdapterSection).validate_python({"method": method, **SMALL[method], **changes})


def moved(adapter: Any, std: float = 0.05) -> None:
    """As after training: every weight somewhere else."""
    torch.manual_seed(3)
    for parameter in adapter.parameters.values():
        parameter.data.add_(torch.randn_like(parameter) * std)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize(("method", "quantization"), WORKING)
def test_it_changes_nothing_at_first_and_leaves_the_base_as_it_was(
    base_of: Any, quantization: str, method: str
) -> None:
    base = base_of(quantization=quantization)
    model, digest, before = base.model, base.digest(), logits(base.model)
    modules = dict(model.named_modules())
    adapter = methods.attach(model, section(method))
    assert dict(model.named_modules()) == modules
    methods.activate(model, adapter)
    assert torch.equal(logits(model), before)
    moved(adapter)
    assert not torch.equal(logits(model), before)
    methods.activate(model)
    assert torch.equal(logits(model), before)
    methods.detach(model, adapter)
    assert dict(model.named_modules()) == modules
    assert base.digest() == digest
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_on_a_bfloat16_base_its_weights_are_float32_and_learn(base_of: Any, method: str) -> None:
    model = base_of(dtype="bfloat16").model
    before = logits(model)
    adapter = methods.attach(model, section(method))
    methods.activate(model, adapter)
    if method == "dora":  # it divides by the norm of the weight and multiplies by it again, in bfloat16
        assert torch.allclose(logits(model), before, rtol=0, atol=2**-5 * float(before.abs().max()))
    else:
        assert torch.equal(logits(model), before)
    adapter.train(True)
    loss = model(IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    for key, parameter in adapter.parameters.items():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, key
    assert any(parameter.grad.any() for parameter in adapter.parameters.values())


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("method", METHODS)
def test_plain_peft_computes_the_same(model_of: Any, tmp_path: Any, method: str) -> None:
    model = model_of("Llama", num_hidden_layers=4)  # of 28 linear layers: PEFT shortens lists of 20 and more
    adapter = methods.attach(model, section(method))
    moved(adapter)
    methods.activate(model, adapter)
    ours = logits(model)
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.parameters), "tiny", None)
    theirs = peft.PeftModel.from_pretrained(model_of("Llama", num_hidden_layers=4), tmp_path)
    assert torch.equal(logits(theirs), ours)


def test_adapters_of_all_methods_are_on_one_base_and_none_sees_another(model_of: Any) -> None:
    """A LoRA that came first, and one that came last."""
    model = model_of("Llama")
    lora = sections.Lora(method="lora", r=4)
    on_it = {"first": methods.attach(model, lora), **{m: methods.attach(model, section(m)) for m in METHODS}}
    on_it["last"] = methods.attach(model, lora)
    for adapter in on_it.values():
        moved(adapter)
    found = {}
    for name, adapter in on_it.items():
        methods.activate(model, adapter)
        found[name] = logits(model)
    for name, adapter in reversed(on_it.items()):
        methods.activate(model, adapter)
        assert torch.equal(logits(model), found[name]), name
        alone = model_of("Llama")
        again = methods.attach(alone, lora if name in ("first", "last") else section(name))
        methods.weights.fill(again.parameters, methods.weights.copied(adapter.parameters))
        methods.activate(alone, again)
        assert torch.equal(logits(alone), found[name]), name
    for adapter in on_it.values():
        methods.detach(model, adapter)
    assert [type(one) for one in model.modules()] == [type(one) for one in model_of("Llama").modules()]


def test_layers_and_targets_are_those_asked_for(model_of: Any) -> None:
    model = model_of("Llama")
    adapter = methods.attach(model, section("oft", layers=[1], target_modules=["q_proj"]))
    assert list(adapter.parameters) == ["base_model.model.model.layers.1.self_attn.q_proj.oft_R.weight"]
    assert adapter.first_layer == 1
    assert adapter.config()["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    ia3 = methods.attach(model, section("ia3", layers="top-1"))
    assert ia3.config()["feedforward_modules"] == ["model.layers.1.mlp.down_proj"]


def test_a_module_may_be_named_by_the_end_of_its_path(tiny_encoder: Path) -> None:
    """BERT's usual places of IA3 are, in PEFT, `key`, `value` and `output.dense`."""
    theirs = peft.IA3Model(AutoModel.from_pretrained(tiny_encoder), peft.IA3Config(), "theirs")
    adapted = {name: one for name, one in theirs.model.named_modules() if isinstance(one, IA3Layer)}
    inner = {name for name, one in adapted.items() if one.is_feedforward}
    ours = methods.attach(AutoModel.from_pretrained(tiny_encoder), section("ia3")).config()
    assert set(ours["target_modules"]) == {f"bert.{name}" for name in adapted}
    assert set(ours["feedforward_modules"]) == {f"bert.{name}" for name in inner}
    low_rank = sections.Lora(method="lora", target_modules=["output.dense"])
    assert len(methods.attach(AutoModel.from_pretrained(tiny_encoder), low_rank).parameters) == 2 * len(inner)


@pytest.mark.parametrize("method", ["oft", "lora"])
def test_a_path_outside_of_the_layers_is_not_adapted(model_of: Any, method: str) -> None:
    path = "model.layers.0.self_attn.q_proj"
    wanted = TypeAdapter(sections.AdapterSection).validate_python(
        {"method": method, **SMALL.get(method, {}), "target_modules": [path, "v_proj"], "layers": "top-1"}
    )
    if method == "lora":  # PEFT would adapt it all the same
        with pytest.raises(BaseError, match=f"adapter.target_modules: {path} is none of the layers asked for"):
            methods.attach(model_of("Llama"), wanted)
    else:
        assert list(methods.attach(model_of("Llama"), wanted).config()["target_modules"]) == [
            "model.layers.1.self_attn.v_proj"
        ]


@pytest.mark.parametrize(
    ("method", "changes", "told"),
    [
        ("oft", {"oft_block_size": 7}, "blocks of 7 do not divide the 32 inputs of model.layers.0.self_attn.q_proj"),
        ("ia3", {"target_modules": ["k_prj"]}, "no linear module 'k_prj'; did you mean 'k_proj'"),
        ("ia3", {"target_modules": ["lp.down_proj"]}, "no linear module 'lp.down_proj'"),
        ("ia3", {"feedforward_modules": ["o_proj"]}, "o_proj must be among adapter.target_modules"),
        ("miss", {"r": 64}, "miss does not fit this base: `r` .64. must be less than or equal to in_features"),
        ("vera", {"layers": [9]}, "the base has layers 0 to 1"),
        ("dora", {"r": 17}, "adapter.r: 17 is over the rank of model.layers.0.self_attn.k_proj, .* give 16 at most"),
        ("adalora", {"init_r": 17}, "adapter.init_r: 17 is over the rank of model.layers.0.self_attn.k_proj"),
    ],
)
def test_what_cannot_be_attached(model_of: Any, method: str, changes: dict[str, Any], told: str) -> None:
    model = model_of("Llama")
    modules = dict(model.named_modules())
    with pytest.raises(BaseError, match=told):
        methods.attach(model, section(method, **changes))
    assert dict(model.named_modules()) == modules
    assert not hasattr(model, "peft_config")


def test_factors_that_peft_would_leave_out_in_silence_are_refused(
    model_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", None)
    monkeypatch.setattr("torch.utils.cpp_extension.load", None)  # as where nothing can be built
    with pytest.raises(
        BaseError, match=r"boft_n_butterfly_factor: PEFT computes 2 factors by its CUDA extension alone"
    ):
        methods.attach(model_of("Llama"), section("boft", boft_n_butterfly_factor=2))


def test_rows_of_such_adapters_do_not_share_a_pass_but_are_answered(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    adapted(session, "lora", approach="head")
    task = session["lora"].task
    for method in METHODS:
        loaded = session.add(method, session.attach(task, section(method), 256))
        moved(loaded)
    names = [*METHODS, "lora"] * 2
    rows = [f"film number {i}" for i in range(len(names))]
    mixed = list(session.predict(rows, names))
    for row, name, found in zip(rows, names, mixed, strict=True):
        assert next(iter(session.predict([row], name))).probabilities == pytest.approx(found.probabilities, rel=1e-4)
    assert len({one.confidence for one in mixed}) > len(mixed) / 2
