"""Bottleneck adapters: where the literature has them, beside LoRA on any base, and each on its own rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from pydantic import TypeAdapter
from torch import Tensor, nn

from pefttune import methods, pipeline
from pefttune.data import Example
from pefttune.errors import BaseError, RecipeError
from pefttune.inference import Session, boundary_of, open_session
from pefttune.methods.bottleneck import NON_LINEARITIES, BottleneckLayer
from pefttune.recipe import adapters as sections
from pefttune.recipe import load_recipe

IDS = torch.arange(5, 40)[None]
PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
WIDTH, LAYERS, HEADS = 32, 2, 4
SIZE = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 64}
IMAGE = {"image_size": 16, "patch_size": 4}
OF_GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "bos_token_id": 0, "eos_token_id": 0}
OF_DISTILBERT = {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 64}
# Of each kind its sizes, its list of layers, and in a layer what projects attention's output, what projects that of the
# feed-forward part, and that part, if it is a module.
KINDS: dict[str, tuple[dict[str, Any], str, str, str, str | None]] = {
    "Llama": (SIZE, "layers", "self_attn.o_proj", "mlp.down_proj", "mlp"),
    "GPT2": (OF_GPT2, "h", "attn.c_proj", "mlp.c_proj", "mlp"),
    "GPTNeoX": (SIZE, "layers", "attention.dense", "mlp.dense_4h_to_h", "mlp"),
    "ModernBert": (SIZE, "layers", "attn.Wo", "mlp.Wo", "mlp"),
    "Bert": (SIZE, "encoder.layer", "attention.output.dense", "output.dense", None),
    "Roberta": (SIZE, "encoder.layer", "attention.output.dense", "output.dense", None),
    "DistilBert": (OF_DISTILBERT, "transformer.layer", "attention.out_lin", "ffn.lin2", "ffn"),
    "ViT": ({**SIZE, **IMAGE}, "layers", "attention.o_proj", "mlp.fc2", "mlp"),
    "Dinov2": ({**SIZE, **IMAGE}, "encoder.layer", "attention.o_proj", "mlp.fc2", "mlp"),
}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
# float32: y + u and (x + u) + y, and rows in batches of another height, are the same sums in another order.
ORDER_OF_SUMS = 1e-5


def section(placement: str = "houlsby", **changes: Any) -> sections.Bottleneck:
    return sections.Bottleneck(
        **{"method": "bottleneck", "placement": placement, "reduction_factor": 4, "non_linearity": "tanh", **changes}
    )


def new_model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**KINDS[kind][0]))
    for parameter in model.parameters():
        if parameter.dim() > 1:  # fresh weights are so small that every model looks alike
            parameter.data.normal_(std=0.2)
    return model.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def states(model: Any) -> Tensor:
    return outputs(model)


def gradients(model: Any, adapter: Any) -> list[Tensor]:
    """Of each parameter of the adapter, in whichever model it acts."""
    adapter.train(True)
    states_RD = outputs(model).flatten(0, -2)
    weights_RD = torch.arange(states_RD.numel()).sin().view_as(states_RD)  # no norm makes their sum the same for all
    found = torch.autograd.grad((states_RD * weights_RD).sum(), list(adapter.parameters.values()))
    adapter.train(False)
    return list(found)


def outputs(model: Any) -> Tensor:
    vision = model.main_input_name == "pixel_values"
    image = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16).to(model.dtype)
    found: Tensor = model(**({"pixel_values": image} if vision else {"input_ids": IDS})).last_hidden_state
    return found


def moved(adapter: Any, std: float = 0.2, seed: int = 3) -> Any:
    """As after training: every weight somewhere else."""
    torch.manual_seed(seed)
    for parameter in adapter.parameters.values():
        parameter.data.add_(torch.randn_like(parameter) * std)
    return adapter


class Behind(nn.Module):
    """A projection with an adapter behind it."""

    def __init__(self, inner: nn.Module, layer: nn.Module, scaling: float) -> None:
        super().__init__()
        self.inner, self.layer, self.scaling = inner, layer, scaling

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y + self.scaling * self.layer(y)


class Beside(Behind):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y + self.scaling * self.layer(x)


class BesideBert(Behind):
    """As `Beside`, where the feed-forward part is two modules; the second gets what the first got."""

    def forward(self, inner: Tensor, x: Tensor) -> Tensor:
        module = self.inner
        normed: Tensor = module.LayerNorm(module.dense(inner) + self.scaling * self.layer(x) + x)
        return normed


def by_wrapping(kind: str, placement: str, adapter: Any, scaling: float) -> Any:
    """The same model with the same weights, in which modules are replaced by sums as the papers draw them."""
    model = new_model(kind)
    _, path, attention, feed_forward, whole = KINDS[kind]
    layers, made = model.get_submodule(path), iter(adapter._layers.values())
    for layer in layers:
        if placement == "parallel":
            name, sum_of = (whole, Beside) if whole else ("output", BesideBert)
            layer.set_submodule(name, sum_of(layer.get_submodule(name), next(made), scaling))
        for name in {"houlsby": (attention, feed_forward), "pfeiffer": (feed_forward,)}.get(placement, ()):
            layer.set_submodule(name, Behind(layer.get_submodule(name), next(made), scaling))
    assert next(made, None) is None
    return model


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_papers_draw_and_nothing_at_first(kind: str, placement: str) -> None:
    model = new_model(kind)
    modules, before = list(model.named_modules()), states(model)
    told, scaling = {"parallel": ({}, 4.0), "houlsby": ({}, 1.0), "pfeiffer": ({"scaling": 2.5}, 2.5)}[placement]
    adapter: Any = methods.attach(model, section(placement, **told))
    assert list(model.named_modules()) == modules
    methods.activate(model, adapter)
    assert torch.equal(states(model).view(torch.int32), before.view(torch.int32))
    moved(adapter)
    changed = states(model)
    other = by_wrapping(kind, placement, adapter, scaling)
    expected = states(other)
    assert not torch.allclose(expected, before, rtol=0.1)
    assert torch.allclose(changed, expected, rtol=0, atol=ORDER_OF_SUMS * float(expected.abs().max()))
    for mine, drawn in zip(gradients(model, adapter), gradients(other, adapter), strict=True):
        assert torch.allclose(mine, drawn, rtol=0, atol=10 * ORDER_OF_SUMS * float(drawn.abs().max()))
    methods.detach(model, adapter)
    assert torch.equal(states(model).view(torch.int32), before.view(torch.int32))
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("non_linearity", NON_LINEARITIES)
def test_a_zero_keeps_its_sign(dtype: torch.dtype, non_linearity: str) -> None:
    model = new_model("Llama", dtype)
    place, seen = model.layers[0].mlp, []
    zeros = torch.tensor([-0.0, 0.0]).repeat(WIDTH // 2).to(dtype)
    place.register_forward_hook(lambda module, args, output: zeros.expand_as(output))
    methods.activate(model, methods.attach(model, section("pfeiffer", non_linearity=non_linearity)))
    place.register_forward_hook(lambda module, args, output: seen.append(output))
    states(model)
    assert torch.equal(seen[0].view(BITS[dtype]), zeros.expand_as(seen[0]).contiguous().view(BITS[dtype]))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("quantization", ["none", "bfloat16", "nf4", "fp4", "int8"])
def test_it_learns_in_ten_steps_is_read_back_and_leaves_the_base_as_it_was(
    learn: Any, base_of: Any, quantization: str, placement: str, tmp_path: Path
) -> None:
    half = quantization == "bfloat16"
    base = base_of(dtype="bfloat16") if half else base_of(quantization=quantization)
    model, digest, before = base.model, base.digest(), logits(base.model)
    adapter = methods.attach(model, section(placement))
    methods.activate(model, adapter)
    assert torch.equal(logits(model), before)
    learn(adapter, lambda: model(IDS, labels=IDS, use_cache=False).loss)
    trained = logits(model)
    assert not torch.equal(trained, before)
    methods.activate(model)
    assert torch.equal(logits(model), before)
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.parameters), "tiny", None)
    again = methods.attach(model, section(placement))
    methods.weights.fill(again.parameters, methods.weights.read(tmp_path, again.parameters))
    methods.activate(model, again)
    assert torch.equal(logits(model), trained)
    with pytest.raises(KeyError, match="BOTTLENECK_OF_PEFTTUNE"):
        peft.PeftModel.from_pretrained(model, tmp_path)
    for one in (adapter, again):
        methods.detach(model, one)
    assert torch.equal(logits(model), before)
    assert base.digest() == digest


@pytest.mark.parametrize("order", list(itertools.permutations(("lora", "bottleneck", "ia3"))))
def test_beside_other_methods_in_any_order(model_of: Any, order: tuple[str, ...]) -> None:
    configs = {
        "lora": sections.Lora(method="lora", r=4),
        "bottleneck": section(),
        "ia3": sections.Ia3(method="ia3"),
    }
    model, found, alone = model_of("Llama"), {}, {}
    before = logits(model)
    on_it = {name: moved(methods.attach(model, configs[name])) for name in order}
    for name, adapter in on_it.items():
        methods.activate(model, adapter)
        found[name] = logits(model)
        other = model_of("Llama")
        again = methods.attach(other, configs[name])
        methods.weights.fill(again.parameters, adapter.parameters)
        methods.activate(other, again)
        alone[name] = logits(other)
    assert all(torch.equal(found[name], alone[name]) for name in order)
    for name in order:  # the first goes first
        methods.detach(model, on_it.pop(name))
        for rest, adapter in on_it.items():
            methods.activate(model, adapter)
            assert torch.equal(logits(model), found[rest])
    methods.activate(model)
    assert torch.equal(logits(model), before)


@pytest.fixture(params=["decoder", "encoder"])
def session(request: pytest.FixtureRequest, base_of: Any, tiny_encoder: Path, adapted: Any) -> Session:
    """A LoRA and an adapter of each placement, all with heads."""
    session = Session(base_of() if request.param == "decoder" else base_of(tiny_encoder))
    adapted(session, "lora", approach="head")
    for number, placement in enumerate(PLACEMENTS):
        config = section(placement, layers=[1] if placement == "houlsby" else None)
        loaded = session.add(placement, session.attach(session["lora"].task, config, 256))
        moved(loaded, seed=number)
    return session


NAMES = ("lora", *PLACEMENTS)
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


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_only_the_rows_that_are_read_and_padded_rows_and_steps_of_a_cache_give_the_same(
    base_of: Any, adapted: Any, placement: str
) -> None:
    session = Session(base_of())
    task = adapted(session, "lora").task
    moved(session.add("a", session.attach(task, section(placement), 256)))
    model = session.base.model
    prompt, answers = tuple(range(5, 40)), ((60, 61), (62,))
    example = Example(prompt, answers, 0, "row 1")
    session.collator.try_ragged([example])
    assert session.collator.is_ragged([example])
    (found,) = session.scores("a", [example])  # ragged, the last layer on the answers' rows alone
    with torch.no_grad():
        whole = [model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0] for answer in answers]
        length = len(prompt)
        expected = [
            sum(float(rows[length - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(answer))
            for rows, answer in zip(whole, answers, strict=True)
        ]
        assert found.tolist() == pytest.approx(expected, rel=1e-4)
        padding = torch.zeros(1, 1, dtype=torch.long)
        ids = torch.cat([torch.tensor([[*prompt, 60, 61]]), torch.cat([torch.tensor([[*prompt, 62]]), padding], 1)])
        mask = torch.ones_like(ids)
        mask[1, -1] = 0
        padded = model(ids, attention_mask=mask, use_cache=False).logits
        assert torch.allclose(padded[1, :-1], whole[1], rtol=0, atol=1e-4)
        cached = model(torch.tensor([prompt]), use_cache=True)
        step = model(torch.tensor([[60]]), past_key_values=cached.past_key_values, use_cache=True).logits[0, -1]
        assert torch.allclose(step, whole[0][-2], rtol=0, atol=1e-4)


def test_frozen_layers_below_the_lowest_adapter_are_run_once(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    task = adapted(session, "lora").task
    moved(session.add("a", session.attach(task, section("pfeiffer", layers="top-1"), 256)))
    adapter = session["a"].adapter
    assert adapter is not None
    assert adapter.first_layer == 1
    assert all(".layers.1.mlp.adapter_" in key for key in adapter.parameters)
    examples = [Example(tuple(range(5, 20 + i)), ((60,), (61,)), 0, "row") for i in range(3)]
    session.collator.try_ragged(examples)
    notices: list[str] = []
    kept = boundary_of(session, "a", examples, every_answer=True, notice=notices.append)
    assert kept is not None
    assert not notices
    entered, whole = session.scores("a", examples, boundary=kept), session.scores("a", examples)
    for one, other in zip(entered, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-4)


def test_names_shapes_and_what_is_told_of_it() -> None:
    model = new_model("Bert")
    adapter = methods.attach(model, section(layers=[1], dropout=0.5))
    assert (adapter.first_layer, methods.attach(model, section()).first_layer) == (1, 0)
    prefix = "base_model.model.bert.encoder.layer.1"
    shapes = {"adapter_down.0.weight": (8, 32), "adapter_down.0.bias": (8,)}
    shapes |= {"adapter_up.weight": (32, 8), "adapter_up.bias": (32,)}
    assert {key: tuple(parameter.shape) for key, parameter in adapter.parameters.items()} == {
        f"{prefix}.{place}.{name}": shape for place in ("attention.output", "output") for name, shape in shapes.items()
    }
    assert adapter.config() == {
        "peft_type": "BOTTLENECK_OF_PEFTTUNE",
        "task_type": "CAUSAL_LM",
        "placement": "houlsby",
        "reduction_factor": 4,
        "non_linearity": "tanh",
        "scaling": 1.0,
        "dropout": 0.5,
        "hidden_size": 32,
        "target_modules": ["bert.encoder.layer.1.attention.output", "bert.encoder.layer.1.output"],
    }


def test_dropout_drops_while_training_only() -> None:
    model = new_model("Llama")
    adapter = moved(methods.attach(model, section(dropout=0.5)))
    methods.activate(model, adapter)
    assert torch.equal(states(model), states(model))
    adapter.train(True)
    assert not torch.equal(states(model), states(model))
    adapter.train(False)
    assert torch.equal(states(model), states(model))


@pytest.mark.parametrize("name", NON_LINEARITIES)
def test_the_non_linearities_of_the_recipe_are_known(name: str) -> None:
    assert section(non_linearity=name).non_linearity == name
    layer = BottleneckLayer(8, 4, name, 0.0, torch.device("cpu"))
    assert not any(bias.any() for bias in (layer.adapter_down[0].bias, layer.adapter_up.bias))
    function = getattr(torch if name == "tanh" else nn.functional, name)
    nn.init.eye_(layer.adapter_up.weight)
    x = torch.randn(3, 8)
    assert torch.equal(layer(x)[:, :4], function(layer.adapter_down(x)))


def recipe_with(new_recipe: Any, tmp_path: Path, base: Path, adapter: str, name: str = "a") -> Any:
    data = f"{{source: {tmp_path / 'reviews.jsonl'}, split: {{validation: 0.2, test: 0.3}}}}"
    quick = "{per_device_train_batch_size: 8, learning_rate: 1e-2, max_steps: 4, eval_steps: 2}"
    task = "{type: text-classification, approach: head}"
    return load_recipe(
        new_recipe(tmp_path, base, task, data, quick, adapter, name), ["evaluation.bootstrap_samples=100"]
    )


@pytest.mark.parametrize("kind", ["tiny", "tiny_encoder"])
def test_it_is_trained_beside_a_lora_stored_and_opened_again(
    request: pytest.FixtureRequest, kind: str, new_recipe: Any, new_reviews: Any, tmp_path: Path
) -> None:
    new_reviews(tmp_path / "reviews.jsonl")
    base = request.getfixturevalue(kind)
    told = {"a": "{method: bottleneck, placement: houlsby, reduction_factor: 4}", "b": "{method: lora, r: 4}"}
    runs = pipeline.run_together([recipe_with(new_recipe, tmp_path, base, told[name], name) for name in told])
    folder = runs[0].folder
    assert json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
    card = (folder / "README.md").read_text()
    assert "library_name: pefttune\n" in card
    assert "PEFT has no such adapters, and refuses the folder: load it with pefttune." in card
    assert "PeftModel" not in card
    session = open_session(["a", "b"], tmp_path / "adapters")
    probe = runs[0].manifest["probe"]
    for values, scores in zip(probe["rows"], probe["scores"], strict=True):
        (prediction,) = session.predict([values], "a")
        assert prediction.label == ["bad", "good"][scores[0].index(max(scores[0]))]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reduction_factor": 33}, "adapter.reduction_factor: 33 leaves nothing of the base's width of 32; take 32"),
        ({"layers": [2]}, "the base has layers 0 to 1"),
        ({"layers": "top-3"}, "the base has 2 layers; top-3 asks for more"),
    ],
)
def test_what_cannot_be_attached(model_of: Any, changes: dict[str, Any], told: str) -> None:
    model = model_of("Llama")
    with pytest.raises(BaseError, match=told):
        methods.attach(model, section(**changes))
    assert not any(one._forward_hooks for one in model.modules())


def test_bases_whose_layers_are_not_known(model_of: Any) -> None:
    opt = model_of("OPT", word_embed_proj_dim=32, ffn_dim=64)
    with pytest.raises(BaseError, match=r"do not know how the layers of OPTForCausalLM are built; they know .*Llama"):
        methods.attach(opt, section())
    bloom = model_of("Bloom", n_layer=2, n_head=4)
    with pytest.raises(BaseError, match="do not know how the layers of BloomForCausalLM are built"):
        methods.attach(bloom, section())
    small = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 261}
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(**small))
    with pytest.raises(BaseError, match=r"T5ForConditionalGeneration is an encoder-decoder, .* take `method: lora`"):
        methods.attach(t5, section())
    norm_before = transformers.RobertaPreLayerNormModel(transformers.RobertaPreLayerNormConfig(**SIZE))
    with pytest.raises(BaseError, match="do not know how the layers of RobertaPreLayerNormModel are built"):
        methods.attach(norm_before, section())
    mixed = model_of("Llama")
    mixed.model.layers[1].mlp = nn.ModuleDict({"fc": mixed.model.layers[1].mlp})
    mixed.model.layers[1].feed_forward = mixed.model.layers[1]._modules.pop("mlp")
    with pytest.raises(BaseError, match="do not know how the layers of LlamaForCausalLM are built"):
        methods.attach(mixed, section())


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ("{method: bottleneck, reduction_factor: 0}", r"adapter\.reduction_factor: must be a whole number \(above 0\)"),
        ("{method: bottleneck, non_linearity: rellu}", "adapter.non_linearity: 'rellu' is not one of: .*'relu'"),
        ("{method: bottleneck, placement: pfeifer}", "adapter.placement: 'pfeifer' is not one of: .*'pfeiffer'"),
        ("{method: bottleneck, scaling: 0}", "adapter.scaling: must be a number .above 0"),
        ("{method: bottleneck, scaling: 1e308}", r"scaling: must be a number .above 0 and at most 65536. or null"),
        ("{method: bottleneck, r: 4}", "adapter.r: unknown key here; it belongs to `method: lora`"),
    ],
)
def test_what_a_recipe_may_not_say(new_recipe: Any, tiny: Path, tmp_path: Path, adapter: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe_with(new_recipe, tmp_path, tiny, adapter)


def test_the_section_is_one_of_the_union() -> None:
    found = TypeAdapter(sections.AdapterSection).validate_python({"method": "bottleneck"})
    assert found == sections.Bottleneck(method="bottleneck")
