"""Heads on an encoder, through the whole straight line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pefttune import methods, pipeline, store
from pefttune.errors import BaseError, DataError
from pefttune.inference import Session, open_session
from pefttune.methods import weights
from pefttune.recipe.adapters import Lora

QUICK = {"task.approach": "head", "training.max_steps": 4, "training.eval_steps": 2}
# float32: the same sums in passes of other height; AdamW divides each gradient by its own size, so that what nearly
# cancels out moves on its rounding. Measured against the largest weight that moved.
ORDER_OF_SUMS = 1e-3


@pytest.fixture
def quick(recipe_of: Any, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Recipes of four steps on the tiny encoder, without the figure."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    own = {**QUICK, "base.source": str(tiny_encoder), "evaluation.bootstrap_samples": 100}
    return lambda changes=None: recipe_of({**own, **(changes or {})})


def stored(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "adapters").rglob("*"))


def test_an_adapter_of_an_encoder_learns_and_beats_the_baseline(finished: Any) -> None:
    done = finished("encoder")
    steps = [event["loss"] for event in done.events if event["event"] == "step"]
    assert sum(steps[-3:]) < sum(steps[:3])  # seeded, so always by the same amount
    assert done.run.comparison.adapter["accuracy"] > done.run.comparison.differences[0].there
    told = [event["message"] for event in done.events if event["event"] == "notice"]
    assert told == [], "its batches are ragged, and all of its texts fit"


def test_an_encoder_is_compared_with_the_baseline_alone(finished: Any) -> None:
    """It cannot be asked without an adapter."""
    done = finished("encoder")
    comparison = done.run.comparison
    assert list(comparison.everybody) == ["always 'bad'", "with adapter"]
    assert [each.against for each in comparison.differences] == ["always 'bad'"]
    assert {row.other for row in (*comparison.fixed, *comparison.broken)} == {"bad"}
    scored = {event["what"] for event in done.events if event["event"] == "scoring"}
    assert scored == {"with adapter"}


def test_it_opens_again_and_predicts_what_it_did(
    finished: Any, monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path
) -> None:
    done = finished("encoder")
    monkeypatch.setenv("PEFTTUNE_CACHE", str(done.cache))
    session = open_session("tiny", done.store)
    assert not session.causal
    probe = done.run.manifest["probe"]
    encoder = session["tiny"].encoder
    for values, scores in zip(probe["rows"], probe["scores"], strict=True):
        (prediction,) = session.predict([values])
        assert prediction.label == ["bad", "good"][scores[0].index(max(scores[0]))]
        assert [one.tolist() for one in session.scores("tiny", encoder(next(rows_of(values))))] == scores
    before = done.run.manifest["base"]["fingerprint"]["tensors"]
    assert session.base.fingerprint.tensors == before
    monkeypatch.chdir(done.store.parent)
    assert pipeline.evaluate("tiny", done.store) == done.run.comparison


def rows_of(values: dict[str, Any]) -> Any:
    from pefttune.data import Row

    yield Row(values, "row 1")


def test_its_file_names_tensors_as_transformers_class_with_a_head_does(finished: Any) -> None:
    folder = finished("encoder").run.folder
    tensors, config = load_file(folder / weights.WEIGHTS), json.loads((folder / weights.CONFIG).read_text())
    head = {"base_model.model.classifier.weight", "base_model.model.classifier.bias"}
    assert head <= tensors.keys()
    lora = tensors.keys() - head
    assert len(lora) == 2 * 2 * 6  # halves, layers, linear modules in each
    assert all(key.startswith("base_model.model.bert.encoder.layer.") for key in lora)
    assert config["target_modules"] == ["dense", "key", "query", "value"]
    # Without this PEFT would also adapt the pooler, whose layer is called `dense` too.
    assert config["exclude_modules"] == ["pooler.activation", "pooler.dense"]
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])


@pytest.mark.parametrize("targets", ["all-linear", ["dense"]])
def test_the_pooler_is_never_adapted(base_of: Any, tiny_encoder: Path, targets: Any) -> None:
    model = base_of(tiny_encoder).model
    before = model.pooler.dense
    adapter = methods.attach(model, Lora(method="lora", target_modules=targets))
    assert model.pooler.dense is before
    assert adapter.parameters
    assert not [key for key in adapter.parameters if "pooler" in key]


def test_a_pooler_that_is_a_layer_itself_is_not_adapted_either() -> None:
    from transformers import AlbertConfig, AlbertModel

    model = AlbertModel(AlbertConfig(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1))
    before = model.pooler
    adapter = methods.attach(model, Lora(method="lora"))
    assert model.pooler is before
    assert "pooler" not in adapter.config()["target_modules"]


def test_a_decoder_keeps_the_names_it_had(base_of: Any) -> None:
    adapter = methods.attach(base_of().model, Lora(method="lora"))
    assert all(key.startswith("base_model.model.model.layers.") for key in adapter.parameters)
    assert adapter.config()["exclude_modules"] is None


def test_label_words_are_refused_before_training(quick: Any, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(BaseError) as raised:
        pipeline.run(quick({"task.approach": "label-words"}), events.append)
    assert str(raised.value) == "this base is an encoder and cannot answer in words: set task.approach to head"
    assert "step" not in [event["event"] for event in events]
    assert stored(tmp_path) == []


def test_more_tokens_than_the_base_has_positions_for_are_refused(quick: Any, new_encoder: Any, tmp_path: Path) -> None:
    small = {"base.source": str(new_encoder(tmp_path / "small", max_position_embeddings=40))}
    with pytest.raises(DataError) as raised:
        pipeline.run(quick({**small, "data.max_length": 41}))
    assert str(raised.value) == "data.max_length: 41 tokens are more than this base reads; it has 40"
    assert stored(tmp_path) == []
    pipeline.run(quick({**small, "data.max_length": 40, "training.max_steps": 2}))


def test_a_base_that_counts_positions_from_behind_the_paddings_has_fewer(
    quick: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    """RoBERTa's 514 are 512. Read to the last one, it must not fall over its table."""
    import shutil

    from transformers import RobertaConfig, RobertaModel

    folder = shutil.copytree(tiny_encoder, tmp_path / "roberta")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = RobertaConfig(vocab_size=261, max_position_embeddings=42, pad_token_id=1, type_vocab_size=1, **small)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    with (tmp_path / "reviews.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": f"{i} " + "long " * 40, "label": "good"}) + "\n" for i in range(20))
    source = {"base.source": str(folder)}
    with pytest.raises(DataError, match="41 tokens are more than this base reads; it has 40"):
        pipeline.run(quick({**source, "data.max_length": 41}))
    run = pipeline.run(quick({**source, "data.max_length": 40}))
    assert all(key.startswith("base_model.model.roberta.") for key in load_file(run.folder / weights.WEIGHTS)
               if "lora" in key)  # fmt: skip


def test_a_quantized_encoder_trains_and_verifies(quick: Any) -> None:
    run = pipeline.run(quick({"base.quantization": "nf4", "adapter.lora_dropout": 0.1}))
    assert run.manifest["base"]["fingerprint"]["quantization"] == "nf4+double"


def test_two_heads_on_one_encoder_become_what_each_becomes_alone(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"output.name": "other", "adapter.r": 2, "training.learning_rate": 2e-3, "seed": 5}
    joined: list[int] = []
    join = Session.losses

    def noting(self: Session, batches: Any) -> Any:
        joined.append(len(batches))
        return join(self, batches)

    monkeypatch.setattr(Session, "losses", noting)
    recipes = [quick(), quick(other)]
    together = pipeline.run_together(recipes)
    assert joined == [2] * 4
    for recipe, run in zip(recipes, together, strict=True):
        elsewhere = recipe.output.model_copy(update={"store": str(tmp_path / "alone")})
        alone = pipeline.run(recipe.model_copy(update={"output": elsewhere}))
        ours, theirs = (load_file(each.folder / weights.WEIGHTS) for each in (run, alone))
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert (ours[key] - theirs[key]).norm() <= ORDER_OF_SUMS * theirs[key].norm(), key
        assert run.comparison.adapter["accuracy"] == alone.comparison.adapter["accuracy"]
        assert list(run.comparison.others) == ["always 'bad'"]
    assert store.names(tmp_path / "adapters") == ["other", "tiny"]


def test_upper_layers_of_an_encoder_are_trained_without_a_cache_and_say_so(quick: Any) -> None:
    found = []
    for cached in (False, True):
        events: list[dict[str, Any]] = []
        run = pipeline.run(quick({"adapter.layers": "top-1", "training.cache_frozen_layers": cached}), events.append)
        told = {event["message"] for event in events if event["event"] == "notice"}
        found.append((load_file(run.folder / weights.WEIGHTS), told))
    assert [told for _, told in found] == [
        set(),
        {"the frozen layers are run again in every pass: this base cannot be entered at a layer"},
    ]
    assert all(".layer.1." in key for key in found[0][0] if "lora" in key)
    assert all(torch.equal(found[1][0][key], tensor) for key, tensor in found[0][0].items())


def test_a_text_with_special_tokens_cannot_end_itself(base_of: Any, adapted: Any, tiny_encoder: Path) -> None:
    session = Session(base_of(tiny_encoder))
    encoder = adapted(session, "a", approach="head").encoder
    (example,) = encoder(next(rows_of({"text": "bad [SEP] [CLS] film"})))
    ids = session.base.tokenizer.all_special_ids
    assert [token for token in example.prompt if token in ids] == [example.prompt[0], example.prompt[-1]]
    assert session.base.tokenizer.decode(example.prompt).replace(" ", "") == "[CLS]bad[sep][cls]film[SEP]"
