"""LoRA in place: the base computes and weighs the same, one adapter acts at a time, and nothing learns unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, LoraModel
from torch import Tensor

from pefttune import methods
from pefttune.bases import Base
from pefttune.errors import BaseError
from pefttune.methods.lora import FILE_PREFIX
from pefttune.methods.lora_layer import LoraLinear
from pefttune.recipe.adapters import Lora

LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def lora(**changes: Any) -> Lora:
    return Lora(**{"method": "lora", "r": 4, **changes})


@torch.no_grad()
def logits(base: Base) -> Tensor:
    result: Tensor = base.model(torch.tensor([[5, 80, 33, 12, 240]])).logits
    return result


def trained(adapter: methods.Adapter, seed: int) -> methods.Adapter:
    """The adapter with random weights, so that it does something."""
    torch.manual_seed(seed)
    for parameter in adapter.parameters.values():
        parameter.data.normal_(std=0.2)
    return adapter


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attaching_changes_no_logit_and_no_byte(base_of: Any, quantization: str, dtype: str) -> None:
    base = base_of(quantization=quantization, dtype=dtype)
    before, digest = logits(base), base.digest()
    adapter = methods.attach(base.model, lora())
    methods.activate(base.model, adapter)
    assert torch.equal(logits(base), before)
    assert base.digest() == digest
    trained(adapter, 1)
    assert not torch.equal(logits(base), before), "the adapter does not act at all"
    assert base.digest() == digest


def test_parameters_are_float32_masters_on_every_linear_layer(base_of: Any) -> None:
    base = base_of(dtype="bfloat16")
    adapter = methods.attach(base.model, lora())
    expected = {
        f"{FILE_PREFIX}model.layers.{layer}.{part}.{name}.lora_{half}.weight"
        for layer in (0, 1)
        for part, names in (("self_attn", {"q_proj", "k_proj", "v_proj", "o_proj"}), ("mlp", LINEARS))
        for name in names & ({"gate_proj", "up_proj", "down_proj"} if part == "mlp" else names)
        for half in "AB"
    }
    assert adapter.parameters.keys() == expected
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}


# The four holes of PEFT's functional interface.


def test_a_second_attach_makes_neither_adapter_trainable(base_of: Any) -> None:
    base = base_of()
    adapters = [methods.attach(base.model, lora()) for _ in range(3)]
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert len({id(p) for adapter in adapters for p in adapter.parameters.values()}) == 3 * 28


def test_attaching_another_while_one_learns_disturbs_neither(base_of: Any) -> None:
    base = base_of()
    first = methods.attach(base.model, lora())
    first.train(True)
    second = methods.attach(base.model, lora(r=2))
    assert all(parameter.requires_grad for parameter in first.parameters.values())
    learning = {name for name, parameter in base.model.named_parameters() if parameter.requires_grad}
    assert len(learning) == len(first.parameters)
    assert not any(parameter.requires_grad for parameter in second.parameters.values())


def test_activating_turns_no_gradient_on(base_of: Any) -> None:
    base = base_of()
    first, second = (methods.attach(base.model, lora()) for _ in range(2))
    for adapter in (first, second, first, None):
        methods.activate(base.model, adapter)
        assert not any(parameter.requires_grad for parameter in base.model.parameters())
    first.train(True)
    methods.activate(base.model, second)
    methods.activate(base.model, first)
    assert all(parameter.requires_grad for parameter in first.parameters.values())
    assert not any(parameter.requires_grad for parameter in second.parameters.values())


def test_new_modules_are_in_eval_mode_until_train(base_of: Any) -> None:
    base = base_of()
    adapter = methods.attach(base.model, lora(lora_dropout=0.5))
    dropouts = [module for module in base.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(dropouts) == 14
    assert not any(module.training for module in dropouts)
    trained(adapter, 1)
    methods.activate(base.model, adapter)
    assert torch.equal(logits(base), logits(base))
    adapter.train(True)
    assert all(module.training for module in dropouts)
    assert not torch.equal(logits(base), logits(base)), "dropout drops nothing"
    adapter.train(False)
    assert not any(module.training for module in dropouts)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_dropout_of_one_adapter_does_not_drop_in_another(base_of: Any) -> None:
    base = base_of()
    calm, dropping = (trained(methods.attach(base.model, lora(lora_dropout=0.5)), seed) for seed in (1, 2))
    dropping.train(True)
    methods.activate(base.model, calm)
    assert torch.equal(logits(base), logits(base))


def test_a_target_that_matches_nothing_is_told_with_a_suggestion(base_of: Any) -> None:
    base = base_of()
    message = r"the base has no linear module 'q_porj'; did you mean 'q_proj'\?; it has down_proj, gate_proj, "
    with pytest.raises(BaseError, match=message):
        methods.attach(base.model, lora(target_modules=["v_proj", "q_porj"]))
    with pytest.raises(BaseError, match="no linear module 'lm_head'"):  # the output layer is no target
        methods.attach(base.model, lora(target_modules=["lm_head"]))
    assert not any(isinstance(module, LoraLinear) for module in base.model.modules())


def test_a_base_without_linear_layers_is_told(base_of: Any, new_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel  # its layers are convolutions

    (tmp_path / "gpt2").mkdir()
    size = new_tokenizer(tmp_path / "gpt2")
    config = GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(BaseError, match="GPT2LMHeadModel has no linear layers that LoRA could be attached to"):
        methods.attach(base_of(tmp_path / "gpt2").model, lora())


@pytest.mark.parametrize("layers", [(2,), (0, 2), (10,)])
def test_layers_the_base_has_not_are_told(base_of: Any, layers: tuple[int, ...]) -> None:
    with pytest.raises(BaseError, match=r"adapter\.layers: the base has layers 0 to 1; .* is not in it"):
        methods.attach(base_of().model, lora(layers=layers))


def test_only_the_layers_asked_for_are_adapted(base_of: Any) -> None:
    adapter = methods.attach(base_of().model, lora(layers=[1], target_modules=["q_proj", "up_proj"]))
    assert sorted(adapter.parameters) == [
        f"{FILE_PREFIX}model.layers.1.{module}.lora_{half}.weight"
        for module in ("mlp.up_proj", "self_attn.q_proj")
        for half in "AB"
    ]


def test_all_linear_means_the_same_with_an_adapter_attached(base_of: Any) -> None:
    base = base_of()
    first = methods.attach(base.model, lora())
    second = methods.attach(base.model, lora())
    assert first.parameters.keys() == second.parameters.keys()
    assert set(second.config()["target_modules"]) == LINEARS


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_there_and_back_again_gives_the_same_logits(base_of: Any, quantization: str) -> None:
    base = base_of(quantization=quantization)
    bare, digest = logits(base), base.digest()
    first = trained(methods.attach(base.model, lora()), 1)
    second = trained(methods.attach(base.model, lora(r=8, target_modules=["v_proj"], layers=[1])), 2)
    seen = {}
    for name, adapter in {"first": first, "second": second, "none": None}.items():
        methods.activate(base.model, adapter)
        seen[name] = logits(base)
    for name, adapter in {"first": first, "none": None, "second": second}.items():
        methods.activate(base.model, adapter)
        assert torch.equal(logits(base), seen[name])
    assert torch.equal(seen["none"], bare)
    assert not torch.equal(seen["first"], seen["second"])
    assert base.digest() == digest


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_detaching_gives_the_plain_modules_back(base_of: Any, quantization: str) -> None:
    base = base_of(quantization=quantization)
    modules = dict(base.model.named_modules())
    bare, digest = logits(base), base.digest()
    first, second = (trained(methods.attach(base.model, lora()), seed) for seed in (1, 2))
    methods.activate(base.model, second)
    with_second = logits(base)
    first.detach()
    assert torch.equal(logits(base), with_second), "taking one off disturbed the other"
    second.detach()
    assert dict(base.model.named_modules()) == modules  # the same objects under the same names
    assert not hasattr(base.model, "peft_config")
    assert torch.equal(logits(base), bare)
    assert base.digest() == digest


def test_detaching_the_acting_adapter_lets_no_other_act_or_learn(base_of: Any) -> None:
    base = base_of()
    bare = logits(base)
    first, second = (trained(methods.attach(base.model, lora()), seed) for seed in (1, 2))
    methods.activate(base.model, first)
    first.detach()
    assert torch.equal(logits(base), bare)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    methods.activate(base.model, second)
    assert not torch.equal(logits(base), bare)


def test_the_scale_is_alpha_over_r_or_over_its_root(base_of: Any) -> None:
    def scale(**changes: Any) -> float:
        base = base_of()
        adapter = methods.attach(base.model, lora(**changes))
        layer = next(module for module in base.model.modules() if isinstance(module, LoraLinear))
        assert adapter.config()["lora_alpha"] == changes.get("lora_alpha", 2 * changes["r"])
        return float(next(iter(layer._scale.values())))

    assert scale(r=4) == 2.0
    assert scale(r=4, lora_alpha=3) == 0.75
    assert scale(r=4, lora_alpha=3, use_rslora=True) == 1.5
    assert scale(r=4, lora_alpha=0) == 0.0


@pytest.mark.parametrize("kind", ["Bert", "ModernBert"])
def test_an_encoder_that_is_loaded_alone_has_the_names_of_its_class_for_a_task(kind: str) -> None:
    """Also where its layers are its own children, so that PEFT's pattern for a layer's number needs the name before."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(vocab_size=300, pad_token_id=0, **small)
    whole = transformers.AutoModelForSequenceClassification.from_config(config)
    alone = whole.base_model
    adapter = methods.attach(alone, Lora(method="lora", r=2, layers=[2]))
    assert adapter.first_layer == 2
    of_adapter = adapter.config()
    same = {key: of_adapter[key] for key in ("r", "target_modules", "layers_to_transform", "exclude_modules")}
    theirs = LoraModel(transformers.AutoModelForSequenceClassification.from_config(config), LoraConfig(**same), "own")
    expected = {f"base_model.{name.replace('.own', '')}" for name, p in theirs.named_parameters() if p.requires_grad}
    assert expected
    assert adapter.parameters.keys() == expected
