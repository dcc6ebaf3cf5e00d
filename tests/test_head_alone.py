"""A head alone on the frozen base, from the recipe to the stored adapter and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook

from pefttune import bases, pipeline, tasks
from pefttune.inference import Session, open_session
from pefttune.methods import weights
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Head

KINDS = ("alone", "encoder-alone")
TEXTS = ["fine film", "poor, dull, cold and rather longer than the others are", "x"]
# float32: the same sums in passes of other height, through AdamW, which divides by a gradient's own size.
ORDER_OF_SUMS = 1e-3


@pytest.fixture(params=["decoder", "encoder"])
def quick(request: pytest.FixtureRequest, recipe_of: Any, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Recipes of a head alone, without the figure: eight steps, two passes over the training rows."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    own = {"task.approach": "head", "training.num_train_epochs": 2, "evaluation.bootstrap_samples": 100}
    base = {"base.source": str(tiny_encoder)} if request.param == "encoder" else {}
    alone = {"adapter": {"method": "head"}}
    return lambda changes=None: recipe_of({**own, **base, **({} if changes == {} else alone), **(changes or {})})


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / weights.WEIGHTS)


def assert_near(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert (tensor - theirs[key]).norm() <= ORDER_OF_SUMS * tensor.norm(), key


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_holds_the_head_and_nothing_else(finished: Any, kind: str) -> None:
    done = finished(kind)
    steps = [event["loss"] for event in done.events if event["event"] == "step"]
    assert sum(steps[-3:]) < sum(steps[:3])  # seeded, so always by the same amount
    folder, manifest = done.run.folder, done.run.manifest
    key = "score" if kind == "alone" else "classifier"
    expected = {"score.weight"} if kind == "alone" else {"classifier.weight", "classifier.bias"}
    assert tensors(folder).keys() == {f"base_model.model.{name}" for name in expected}
    config = json.loads((folder / weights.CONFIG).read_text())
    assert (config["peft_type"], config["task_type"], config["modules_to_save"]) == ("LORA", "SEQ_CLS", [key])
    assert config["target_modules"] == "dummy-target-modules"  # PEFT's word for no layer
    assert manifest["recipe"]["adapter"] == {"method": "head"}
    assert manifest["parameters"] == 2 * 32 + 2 * (kind != "alone")
    assert "Head alone for text-classification (bad / good)" in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_again_and_scores_as_it_did(finished: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    done = finished(kind)
    monkeypatch.setenv("PEFTTUNE_CACHE", str(done.cache))
    session = open_session("tiny", done.store)
    probe = done.run.manifest["probe"]
    for values, prediction, scores in zip(probe["rows"], session.predict(probe["rows"]), probe["scores"], strict=True):
        assert prediction.label == ["bad", "good"][scores[0].index(max(scores[0]))], values
    monkeypatch.chdir(done.store.parent)
    assert pipeline.evaluate("tiny", done.store) == done.run.comparison


def test_the_base_is_run_once_for_each_row_and_never_changed(
    quick: Any, base_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, loaded, layers, told = quick(), [], [0], []

    def load(*about: Any, **more: Any) -> bases.Base:
        loaded.append(load_base(*about, **more))
        return loaded[-1]

    def count(module: Any, *call: Any) -> None:
        layers[0] += type(module).__name__ in ("LlamaDecoderLayer", "BertLayer")

    load_base = bases.load
    monkeypatch.setattr(bases, "load", load)
    handle = register_module_forward_hook(count)
    try:
        first = pipeline.run(recipe, lambda event: told.append((event, layers[0])))
        again = pipeline.run(recipe, lambda event: told.append((event, layers[0])))
    finally:
        handle.remove()
    events = [event["event"] for event, _ in told]
    second = [i for i, event in enumerate(events) if event == "data"][1]
    for start, end in ((0, second), (second, len(told))):
        during = [count for event, count in told[start:end] if event["event"] in ("step", "evaluation")]
        assert len(during) > 8
        assert min(during) == max(during), "a layer was run in training or validation"
    assert {event["what"] for event, _ in told[:second] if event["event"] == "frozen"} == {"training", "validation"}
    assert "frozen" not in events[second:], "the second run filled the cache again"
    assert all(torch.equal(tensors(again.folder)[key], value) for key, value in tensors(first.folder).items())
    fresh = base_of(recipe.base.source)
    assert all(base.digest() == fresh.digest() for base in loaded)
    assert [type(module) for module in loaded[0].model.modules()] == [type(module) for module in fresh.model.modules()]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("why", ["not wanted", "no room"])
def test_without_the_cache_it_learns_the_same(
    quick: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str, padded: bool
) -> None:
    if padded:
        monkeypatch.setattr("pefttune.inference.collating.disagreement", lambda *args, **options: "it cannot")
    kept = pipeline.run(quick())
    if why == "no room":
        monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "full"))
        monkeypatch.setattr("pefttune.batching.kept.BYTES_LEFT_FREE", 2**60)
    run = pipeline.run(quick({"training.cache_frozen_layers": why == "no room"}))
    assert_near(run.folder, kept.folder)


def test_beside_a_lora_it_becomes_what_it_becomes_alone(quick: Any) -> None:
    lora = {"output.name": "other", "adapter": {"method": "lora", "r": 4}}
    alone = [pipeline.run(quick()), pipeline.run(quick(lora))]
    together = pipeline.run_together([quick(), quick(lora)])
    for one, other in zip(together, alone, strict=True):
        assert_near(one.folder, other.folder)


def test_its_rows_share_passes_with_those_of_loras(base_of: Any, adapted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(base_of())
    adapted(session, "words")
    adapted(session, "lora", approach="head", seed=2)
    section = sections.TextClassification(type="text-classification", approach="head", labels=("x", "y", "z"))
    loaded = session.add("alone", session.attach(tasks.get(section), Head(method="head"), 64))
    for parameter in loaded.parameters.values():
        parameter.data.normal_()
    whose = ["alone", "lora", "words"]
    single = [next(iter(session.predict([text], name))) for text, name in zip(TEXTS, whose, strict=True)]
    passes: list[int] = []
    forward = session.base.model.base_model.forward
    monkeypatch.setattr(
        session.base.model.base_model, "forward", lambda **inputs: passes.append(1) or forward(**inputs)
    )
    mixed = list(session.predict(TEXTS, whose))
    assert len(passes) == 1
    for ours, theirs in zip(mixed, single, strict=True):
        # The same sums over batches of another width, in float32.
        assert ours.probabilities == pytest.approx(theirs.probabilities, rel=1e-4)
    session.remove("alone")
    session.use("lora")
    assert session.names == ("words", "lora")
