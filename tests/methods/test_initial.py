"""LoRA's initial values: PEFT's, but the base stays as it was, and what is saved is an ordinary LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pefttune import methods, pipeline, store
from pefttune.errors import BaseError, RecipeError
from pefttune.inference import Session, open_session
from pefttune.methods.initial import INITIAL, dense_weight
from pefttune.methods.lora_layer import LoraLinear
from pefttune.recipe.adapters import OF_THE_WEIGHT, Lora

IDS = torch.arange(5, 40)[None]
FILES = ("adapter_config.json", "adapter_model.safetensors")
# In float32 what the weight's own part adds, and its frozen half takes away, is some sums of 32 products of about 1.
SUMS = 1e-5
# In bfloat16 both are sums of products that are rounded alike; only where y is rounded once more, one last bit differs,
# and two layers follow.
LAST_BITS = 2**-6


def lora(**changes: Any) -> Lora:
    return Lora(**{"method": "lora", "r": 4, **changes})


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4", "nf4, not dense", "int8"])
@pytest.mark.parametrize("initial", INITIAL)
def test_it_begins_as_the_base_learns_and_is_read_back_to_the_bit(
    learn: Any, base_of: Any, monkeypatch: pytest.MonkeyPatch, initial: str, quantization: str, rslora: bool
) -> None:
    if "not dense" in quantization:
        monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
    base = base_of(quantization=quantization.partition(",")[0])
    model, digest, before = base.model, base.digest(), logits(base.model)
    section = lora(init_lora_weights=initial, use_rslora=rslora)
    adapter = methods.attach(model, section)
    methods.activate(model, adapter)
    assert (logits(model) - before).abs().max() <= (SUMS if initial in OF_THE_WEIGHT else 0) * before.abs().max()
    adapter.train(True)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == len(adapter.parameters)
    assert {min(parameter.shape) for parameter in adapter.parameters.values()} == {4}
    learn(adapter, lambda: model(IDS, labels=IDS, use_cache=False).loss, rate=1e-3)
    trained = logits(model)
    methods.activate(model)
    assert torch.equal(logits(model), before)
    again = methods.attach(model, section.stored())
    methods.weights.fill(again.parameters, methods.weights.copied(adapter.state()))
    assert again.config() == adapter.config()
    methods.activate(model, again)
    assert torch.equal(logits(model), trained)
    assert base.digest() == digest


@pytest.mark.parametrize("initial", OF_THE_WEIGHT)
def test_in_bfloat16_it_begins_as_the_base_but_for_last_bits(base_of: Any, initial: str) -> None:
    model = base_of(dtype="bfloat16").model
    before = logits(model)
    methods.activate(model, methods.attach(model, lora(init_lora_weights=initial, r=8)))
    assert (logits(model) - before).abs().max() <= LAST_BITS * before.abs().max()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_weight_of_a_quantized_layer_is_that_by_which_it_multiplies(
    base_of: Any, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
    plain = base_of().model.model.layers[1].mlp.down_proj
    layer = base_of(quantization=quantization).model.model.layers[1].mlp.down_proj
    layer.bias = nn.Parameter(torch.randn(len(plain.weight)))
    weight = dense_weight(layer, torch.float32)
    assert weight.shape == plain.weight.shape
    assert nn.functional.cosine_similarity(weight.flatten(), plain.weight.flatten(), 0) > 0.99
    if quantization == "nf4":  # int8 rounds its input as well
        x = torch.randn(3, 64)
        torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("initial", ["pissa", "olora"])
def test_values_and_what_is_saved_are_pefts_own(model_of: Any, tmp_path: Path, initial: str, rslora: bool) -> None:
    """PEFT's conversion of such an adapter to a LoRA for the base as it was."""
    ours = model_of("Llama")
    adapter = methods.attach(ours, lora(init_lora_weights=initial, use_rslora=rslora))
    config = {"r": 4, "lora_alpha": 8, "init_lora_weights": initial, "use_rslora": rslora}
    theirs = peft.get_peft_model(
        model_of("Llama"), peft.LoraConfig(**config, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "begin")
    begin = load_file(tmp_path / "begin" / FILES[1])
    assert begin.keys() == adapter.parameters.keys()
    torch.manual_seed(3)
    for key, parameter in adapter.parameters.items():
        assert torch.equal(parameter, begin[key]), key
        parameter.data += torch.randn_like(parameter) * 0.05
        theirs.get_parameter(key.replace(".weight", ".default.weight")).data.copy_(parameter)
    theirs.peft_config["default"].init_lora_weights = initial
    theirs.save_pretrained(tmp_path / "end", path_initial_model_for_weight_conversion=str(tmp_path / "begin"))
    converted = load_file(tmp_path / "end" / FILES[1])
    assert converted.keys() == adapter.state().keys()
    assert all(torch.equal(converted[key], tensor) for key, tensor in adapter.state().items())
    asked = peft.LoraConfig.from_pretrained(tmp_path / "end")
    for key in ("r", "lora_alpha", "use_rslora"):
        assert adapter.config()[key] == getattr(asked, key), key
    methods.activate(ours, adapter)
    # On a base whose weight PEFT has changed, that is rounded once.
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("initial", OF_THE_WEIGHT)
def test_plain_peft_computes_the_same_on_the_unchanged_base(model_of: Any, tmp_path: Path, initial: str) -> None:
    model = model_of("Llama")
    adapter = methods.attach(model, lora(init_lora_weights=initial, use_rslora=True))
    for parameter in adapter.parameters.values():
        parameter.data += 0.02
    methods.activate(model, adapter)
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.state()), "tiny", None)
    theirs = peft.PeftModel.from_pretrained(model_of("Llama"), tmp_path)
    # Both in float32; PEFT multiplies by the scale behind B, here it is done before.
    torch.testing.assert_close(logits(model), logits(theirs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_fast_svd_begins_nearly_as_pissa(model_of: Any, rslora: bool) -> None:
    model = model_of("Llama")
    fast, slow = (
        methods.attach(model, lora(init_lora_weights=initial, use_rslora=rslora)).parameters
        for initial in ("pissa_niter_16", "pissa")
    )
    for key in [key for key in slow if "lora_A" in key]:
        nearly, whole = (one[key.replace("lora_A", "lora_B")] @ one[key] for one in (fast, slow))
        # Directions whose singular values lie close together are mixed up, which takes 1.2 % of the norm at most here,
        # and 17 % and more without iterations; beyond that of the leading ones it is only by rounding.
        assert 0.97 * whole.norm() <= nearly.norm() <= 1.0001 * whole.norm(), key


def test_gaussian_is_normal_as_pefts(model_of: Any) -> None:
    adapter = methods.attach(model_of("Llama"), lora(init_lora_weights="gaussian"))
    a = torch.cat([weight.flatten() for key, weight in adapter.parameters.items() if "lora_A" in key])
    assert a.std() == pytest.approx(1 / 4, rel=0.05)  # of some 2,000 draws
    assert a.abs().max() > 3 / 4  # no uniform distribution of that deviation reaches so far
    assert not any(weight.any() for key, weight in adapter.parameters.items() if "lora_B" in key)


@pytest.mark.parametrize("count", [2, 5])  # five are computed from tables
def test_it_shares_a_pass_with_others(base_of: Any, adapted: Any, count: int) -> None:
    session = Session(base_of())
    kinds = ("default", *OF_THE_WEIGHT, "gaussian")[:count]
    for seed, initial in enumerate(kinds):
        adapted(session, initial, seed=seed, init_lora_weights=initial)
    rows = [f"film number {i}" for i in range(count)]
    mixed = list(session.predict(rows, kinds))
    for row, name, found in zip(rows, kinds, mixed, strict=True):
        alone = next(iter(session.predict([row], name)))
        # The same sums over batches of another width.
        assert found.probabilities == pytest.approx(alone.probabilities, rel=1e-4)
    tables = [module.tables_nbytes(torch.float32) for module in session.base.model.modules() if _is_lora(module)]
    assert bool(sum(tables)) == (count > 3)


def _is_lora(module: nn.Module) -> bool:
    return isinstance(module, LoraLinear)


def test_runs_together_store_what_was_trained(recipe_of: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """A run proves itself by equality: what is read back, of twice the rank, scores to the bit as what was trained."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    quick = {"training.max_steps": 3, "evaluation.bootstrap_samples": 100, "training.learning_rate": 1e-3}
    pissa = {"adapter.init_lora_weights": "pissa", "adapter.loraplus_lr_ratio": 4, "adapter.use_rslora": True}
    other = {"output.name": "other", "adapter.init_lora_weights": "olora", "adapter.r": 2}
    for run in pipeline.run_together([recipe_of(quick | pissa), recipe_of(quick | other)], lambda event: None):
        name, r = run.manifest["name"], run.manifest["recipe"]["adapter"]["r"]
        tensors = load_file(run.folder / FILES[1])
        assert {min(tensor.shape) for tensor in tensors.values()} == {2 * r}
        assert store.read_manifest(run.folder)["parameters"] * 2 == sum(each.numel() for each in tensors.values())
        session = open_session(name, tmp_path / "adapters")
        assert session[name].parameters.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"r": 17},
            r"adapter\.r: 17 is over the rank of model.layers.0.self_attn.k_proj, whose 32 inputs and 16 outputs",
        ),
        ({"r": 9, "init_lora_weights": "pissa"}, "9, which makes a LoRA of rank 18 .* give 16 at most; take 8 or less"),
        ({"target_modules": ["embed_tokens"]}, "the base has no linear module 'embed_tokens'; it has down_proj, "),
    ],
)
def test_what_does_not_fit_is_told_and_leaves_the_base_alone(model_of: Any, changes: dict[str, Any], told: str) -> None:
    model = model_of("Llama")
    with pytest.raises(BaseError, match=told):
        methods.attach(model, lora(**changes))
    assert not any(_is_lora(module) for module in model.modules())


def test_a_scale_of_zero_cannot_be_divided_by(recipe_of: Any) -> None:
    with pytest.raises(
        RecipeError, match="`init_lora_weights: olora` divides by the scale, which `lora_alpha: 0` makes 0"
    ):
        recipe_of({"adapter.init_lora_weights": "olora", "adapter.lora_alpha": 0})
