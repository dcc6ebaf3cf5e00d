"""CorDA and LoftQ: A and B that are made of more than the layers, by rows of the recipe or by the base's files."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.tuners.lora.config import CordaConfig
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pefttune import bases, methods, pipeline, store
from pefttune.errors import BaseError, RecipeError
from pefttune.inference import Session, input_sketches, open_session
from pefttune.methods.initial import dense_weight, pissa
from pefttune.pipeline import beginning, fitting
from pefttune.pipeline.initial_values import beginning as beginning_of
from pefttune.recipe.adapters import Lora

IDS = torch.arange(5, 40)[None]
CPU = torch.device("cpu")
# The adapter's products and the base's are sums of 32 and 64 products of about 1 in float32.
SUMS = 1e-4


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS, use_cache=False).logits
    return found


def begun(base: bases.Base, init: str, sketches: Any = None, **changes: Any) -> methods.LoraAdapter:
    """A new adapter of the base that acts, with these first values."""
    adapter = methods.attach(base.model, Lora(**{"method": "lora", "r": 4, "init_lora_weights": init, **changes}))
    assert isinstance(adapter, methods.LoraAdapter)
    values = beginning_of(base, init, sketches or {})
    assert values is not None
    adapter.begin(values)
    methods.activate(base.model, adapter)
    return adapter


@pytest.mark.parametrize("quantization", ["nf4", "nf4, not dense", "fp4", "int8"])
def test_loftq_is_what_quantization_took_away(base_of: Any, monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    """With all ranks the model is what it was before; with few it is nearer to that, by PEFT's own decomposition."""
    if "not dense" in quantization:
        monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
    whole, base = base_of(), base_of(quantization=quantization.partition(",")[0])
    digest, before, wanted = base.digest(), logits(base.model), logits(whole.model)
    linears = methods.lora_targets(whole.model, Lora(method="lora", r=4))
    narrow = {name: 16 for name, linear in linears.items() if linear.out_features == 16}
    every = begun(base, "loftq", r=32, rank_pattern=narrow)
    lost = (before - wanted).norm()
    if quantization == "int8":  # which rounds its inputs as well
        assert (logits(base.model) - wanted).norm() < lost
    else:
        torch.testing.assert_close(logits(base.model), wanted, rtol=0, atol=SUMS * float(wanted.abs().max()))
    methods.detach(base.model, every)
    few = begun(base, "loftq", use_rslora=True)
    assert (logits(base.model) - wanted).norm() < lost
    for name, (a_rI, b_Or, scale) in few.updates.items():
        weight = linears[name.removeprefix(methods.FILE_PREFIX)].weight
        layer = base.model.get_submodule(name.removeprefix(methods.FILE_PREFIX)).base_layer
        theirs = _low_rank_decomposition(weight - dense_weight(layer, torch.float32), 4)
        torch.testing.assert_close(scale * b_Or @ a_rI, theirs["L"] @ theirs["R"], rtol=0, atol=1e-5)
        torch.testing.assert_close(scale * a_rI @ a_rI.t(), theirs["R"] @ theirs["R"].t(), rtol=0, atol=1e-5)
    methods.detach(base.model, few)
    assert torch.equal(logits(base.model), before)
    assert base.digest() == digest


def test_loftq_reads_shards_and_names_of_another_class(base_of: Any, tiny: Path, tmp_path: Path) -> None:
    def update(base: bases.Base) -> Tensor:
        adapter = begun(base, "loftq")
        a_rI, b_Or, _ = next(iter(adapter.updates.values()))
        return b_Or @ a_rI

    whole = update(base_of(quantization="nf4"))
    shards = tmp_path / "shards"
    shutil.copytree(tiny, shards)
    (shards / "model.safetensors").unlink()
    transformers.AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert torch.equal(update(base_of(shards, quantization="nf4")), whole)
    other = tmp_path / "without prefix"
    shutil.copytree(tiny, other)
    tensors = load_file(tiny / "model.safetensors")
    renamed = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, other / "model.safetensors", {"format": "pt"})
    assert torch.equal(update(base_of(other, quantization="nf4")), whole)


def test_loftq_on_an_encoder(base_of: Any, new_encoder: Any, tmp_path: Path) -> None:
    """Loaded alone, from the files of the whole class."""
    folder = new_encoder(tmp_path / "encoder")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {f"bert.{key}": tensor for key, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    adapter = begun(base_of(folder, quantization="nf4"), "loftq")
    assert all(b_Or.any() for _, b_Or, _ in adapter.updates.values())


@pytest.mark.parametrize(
    ("key", "made", "told"),
    [
        ("q_proj", lambda weight: None, "the weight of model.layers.0.self_attn.q_proj is not in its files under that"),
        (
            "q_proj",
            lambda weight: weight[:8].clone(),
            "q_proj.weight in its files is not the weight of .* before it was",
        ),
        (
            "v_proj",
            lambda weight: weight.to(torch.uint8),
            "v_proj.weight in its files is not the weight of .* before it",
        ),
        ("up_proj", lambda weight: weight.flip(0), "the weights in the base's files are not those that were quantized"),
    ],
    ids=["not there", "another shape", "packed", "another order"],
)
def test_loftq_asks_for_the_very_weights(
    base_of: Any, tiny: Path, tmp_path: Path, key: str, made: Any, told: str
) -> None:
    """transformers may make weights of a file's that are named, shaped or ordered otherwise."""
    folder = tmp_path / "base"
    shutil.copytree(tiny, folder)
    base = base_of(folder, quantization="nf4")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: made(tensor) if f"0.{key}" in _flat(name) else tensor for name, tensor in tensors.items()}
    (folder / "model.safetensors").unlink()  # not into a file that may be mapped
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseError, match=rf"{told}.*`pissa` or `default` need no other weights"):
        begun(base, "loftq")


def _flat(name: str) -> str:
    return name.replace("self_attn.", "").replace("mlp.", "")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"init_lora_weights": "loftq"}, "`base.quantization: none` takes nothing; set nf4, fp4 or int8 there, or"),
        ({"init_lora_weights": "corda", "lora_alpha": 0}, "`init_lora_weights: corda` divides by the scale"),
        ({"init_lora_weights": "corda", "warm_start": "film"}, "`init_lora_weights: corda` and `warm_start` both say"),
        ({"init_lora_weights": "corda", "rho": 2}, "nothing asks for measured ranks"),
    ],
)
def test_what_cannot_be_is_refused_in_the_recipe(recipe_of: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe_of({"adapter": {"method": "lora", "r": 4, **changes}})


def test_loftq_divides_by_the_scale(recipe_of: Any) -> None:
    adapter = {"method": "lora", "r": 4, "init_lora_weights": "loftq", "lora_alpha": 0}
    with pytest.raises(RecipeError, match="`init_lora_weights: loftq` divides by the scale"):
        recipe_of({"base.quantization": "nf4", "adapter": adapter})


@pytest.fixture
def preprocess_corda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """PEFT's, which takes `dataclass` from a package that it does not ask for."""
    monkeypatch.setitem(sys.modules, "attr", dataclasses)
    from peft.tuners.lora.corda import preprocess_corda

    return preprocess_corda


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("rslora", [False, True])
def test_corda_is_pefts_own(
    base_of: Any,
    adapted: Any,
    examples_of: Any,
    ragged: Any,
    preprocess_corda: Any,
    tmp_path: Path,
    rslora: bool,
) -> None:
    """From the same covariance, but for the signs of components."""
    base = base_of()
    session = Session(base)
    examples = examples_of(adapted(session, "a"), ragged)
    session.remove("a")
    linears = methods.lora_targets(base.model, Lora(method="lora", r=4))
    sketches = input_sketches(session, linears, dict.fromkeys(linears, 16), examples)  # with 16 the sketch is exact
    ours = {key: p.clone() for key, p in begun(base, "corda", sketches, use_rslora=rslora).parameters.items()}
    covariances = {}
    for name, sketch in sketches.items():
        moments = sketch.second_moments()
        directions_KI = moments.directions_KI
        covariances[name] = directions_KI.t() @ moments.moments_K.diag() @ directions_KI
        assert float(covariances[name].diag().mean()) == pytest.approx(1)
    torch.save(covariances, tmp_path / "covariances")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=rslora,
        init_lora_weights="corda",
        target_modules=sorted({name.rpartition(".")[2] for name in linears}),
        task_type="CAUSAL_LM",
        corda_config=CordaConfig(covariance_file=str(tmp_path / "covariances"), corda_method="ipm"),
    )
    whole = transformers.AutoModelForCausalLM.from_pretrained(base.located.folder)
    preprocess_corda(whole, config)
    theirs = peft.get_peft_model(whole, config)
    assert len(ours) == 28
    for key, weight in ours.items():
        peer = theirs.get_parameter(key.replace(".weight", ".default.weight")).detach()
        # PEFT inverts the covariance in float32, whose greatest direction has some thousand times the damping.
        torch.testing.assert_close(weight.abs(), peer.abs(), rtol=0, atol=2e-3 * float(peer.abs().max()))


def test_a_covariance_is_that_of_the_inputs() -> None:
    sketch, x_RI = methods.Sketch(24, 6, CPU), torch.randn(50, 24) * torch.arange(1, 25) + 2
    sketch.add(x_RI[:20])
    sketch.add(x_RI[20:])
    found = sketch.second_moments()
    covariance_II = found.directions_KI.t() @ found.moments_K.diag() @ found.directions_KI
    expected_II = x_RI.t() @ x_RI
    torch.testing.assert_close(covariance_II, expected_II / expected_II.diag().mean(), rtol=0, atol=1e-5)


def test_a_small_sketch_finds_nearly_the_same_components_and_none_gives_pissas() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(128, 96, bias=False)
    x_RI = torch.randn(2000, 128) * torch.arange(1, 129) ** -1.0 @ torch.linalg.qr(torch.randn(128, 128)).Q
    products = []
    for k in (4, 32):
        sketch = methods.Sketch(128, k, CPU)
        sketch.add(x_RI)
        a_rI, b_Or = methods.corda(layer, sketch.second_moments(), 4, 2.0, torch.float32)
        products.append(2 * b_Or @ a_rI)
    small, exact = products
    weight = layer.weight.detach()

    def left(product: Tensor) -> float:
        return float((x_RI @ (weight - product.detach()).t()).square().sum())

    assert left(small) < 1.02 * left(exact)
    nothing = methods.corda(layer, methods.Sketch(128, 4, CPU).second_moments(), 4, 2.0, torch.float32)
    a_rI, b_Or = pissa(layer, 4, 2.0, torch.float32)
    assert left(exact) < 0.6 * left(2 * b_Or @ a_rI)
    torch.testing.assert_close(nothing[1] @ nothing[0], b_Or @ a_rI, rtol=0, atol=1e-5)


def test_components_that_a_weight_has_not_are_zero() -> None:
    layer = nn.Linear(16, 12, bias=False)
    layer.weight.data[2:] = 0
    sketch = methods.Sketch(16, 4, CPU)
    sketch.add(torch.randn(40, 16))
    for rank in (2, 0):
        layer.weight.data[rank:] = 0
        a_rI, b_Or = methods.corda(layer, sketch.second_moments(), 4, 1.0, torch.float32)
        torch.testing.assert_close(b_Or @ a_rI, layer.weight.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_corda_begins_as_the_base(recipe_of: Any, base_of: Any, quantization: str) -> None:
    adapter = {
        "method": "lora",
        "r": 4,
        "init_lora_weights": "corda",
        "rank_pattern": {"model.layers.0.mlp.up_proj": 0},
    }
    recipe = recipe_of({"base.quantization": quantization, "adapter": adapter})
    session = Session(base_of(quantization=quantization))
    before = logits(session.base.model)
    events: list[dict[str, Any]] = []
    line = fitting.attach(session, beginning.begin(recipe, events.append, named=False))
    assert line.recipe == recipe
    told = [(event["what"], event["done"], event["of"]) for event in events if event["event"] == "decomposed"]
    assert told == [("weights", done, 13) for done in range(1, 14)]
    session.use(line.name)
    assert all(weight.any() for weight in session[line.name].parameters.values())
    # What the weight's own part adds, and its frozen half takes away, is some sums of 32 products of about 1.
    assert (logits(session.base.model) - before).abs().max() <= 1e-5 * before.abs().max()


def test_what_is_stored_is_what_was_trained(recipe_of: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """A run proves itself by equality: what is read back scores to the bit as what was trained."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    quick = {"training.max_steps": 3, "evaluation.bootstrap_samples": 100, "base.quantization": "nf4"}
    recipes = [
        recipe_of({**quick, "output.name": name, "adapter.init_lora_weights": name}) for name in ("corda", "loftq")
    ]
    runs = pipeline.run_together(recipes, lambda event: None)
    monkeypatch.setattr("pefttune.bases.Originals", None)  # nothing is asked again
    monkeypatch.setattr("pefttune.inference.input_sketches", None)
    for run, name, r in zip(runs, ("corda", "loftq"), (8, 4), strict=True):
        tensors = load_file(run.folder / "adapter_model.safetensors")
        assert {min(tensor.shape) for tensor in tensors.values()} == {r}
        assert store.read_manifest(run.folder)["recipe"]["adapter"]["init_lora_weights"] == name
        assert open_session(name, tmp_path / "adapters")[name].parameters.keys() == tensors.keys()


def test_where_nothing_was_lost_loftq_begins_as_any_lora() -> None:
    """A and B both zero would never learn: a layer that stays unquantized, or a weight of few directions."""
    layer = nn.Linear(16, 12, bias=False)
    a_rI, b_Or = methods.loftq(layer, layer.weight.detach().clone(), 4, 1.0, torch.float32)
    assert a_rI.any(dim=1).all()
    assert not b_Or.any()
    original = layer.weight.detach().clone()
    original[0] += 0.1
    a_rI, b_Or = methods.loftq(layer, original, 4, 1.0, torch.float32)
    assert a_rI.any(dim=1).all()
    torch.testing.assert_close(b_Or @ a_rI, original - layer.weight.detach(), rtol=0, atol=1e-6)


def test_files_that_went_after_the_base_was_read(base_of: Any, tmp_path: Path) -> None:
    base = base_of(quantization="nf4")
    folder = shutil.copytree(base.located.folder, tmp_path / "copy")
    moved = dataclasses.replace(base, located=dataclasses.replace(base.located, folder=folder))
    originals = bases.Originals(moved)
    (folder / "model.safetensors").unlink()
    name = "model.layers.0.mlp.up_proj"
    with pytest.raises(BaseError, match=r"model.layers.0.mlp.up_proj.weight cannot be read from its files"):
        originals.weight(name, base.model.get_submodule(name))
