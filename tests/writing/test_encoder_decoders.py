"""Encoder-decoders as bases of tasks whose answer is written, from the recipe to the stored adapter and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttune
from pefttune.errors import BaseError

KINDS = ["T5", "Bart"]
WORDS = ["sun", "cat", "dog", "sea", "tree", "moon"]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_do_not_depend_on_the_batch(examples: Any, pairs_of: Any, kind: str) -> None:
    session = pairs_of(kind)
    own = examples(session)
    together = session.scores("a", own)
    assert [len(each) for each in together] == [len(each.answers[0]) for each in own]
    for example, scores in zip(own, together, strict=True):
        torch.testing.assert_close(session.scores("a", [example])[0], scores, rtol=1e-5, atol=1e-5)


def test_each_row_is_written_by_its_own_adapter(summarized: Any, pairs_of: Any) -> None:
    session = pairs_of("T5", "ab")
    documents = [document for document, _ in summarized]
    alone = {name: [each.text for each in session.predict(documents, name)] for name in "ab"}
    assert alone["a"] != alone["b"]
    mixed = [each.text for each in session.predict(documents, ["b", "a", "b"])]
    assert mixed == [alone["b"][0], alone["a"][1], alone["b"][2]]
    assert list(session.stream("a", documents[0])) == [alone["a"][0]]  # in one piece


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_is_proved_and_opens_again(done: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = done(kind)
    losses = [event["loss"] for event in finished.events if event["event"] == "step"]
    assert len(losses) == 20
    assert sum(losses[-3:]) < sum(losses[:3]) - 1  # seeded, so always by the same amount
    assert [event["message"] for event in finished.events if event["event"] == "notice"] == [
        "this base reads padded batches, which are slower: ragged, its decoder would look at the texts of all examples"
    ]
    assert next(iter(finished.run.comparison.others)) == "base, zero-shot"
    monkeypatch.setenv("PEFTTUNE_CACHE", str(finished.cache))
    monkeypatch.chdir(finished.store.parent)
    assert pefttune.evaluate("pairs", finished.store).adapter == finished.run.comparison.adapter


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_conversation_is_answered(recipe_for: Any, tmp_path: Path) -> None:
    run = pefttune.run(recipe_for("T5", {"training.max_steps": 4}, "text-generation"))
    session = pefttune.open_session("pairs", tmp_path / "adapters")
    predictions = list(session.predict(run.manifest["probe"]["rows"]))
    assert {type(prediction).__name__ for prediction in predictions} == {"Written"}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_quantized_t5_trains_and_is_proved(recipe_for: Any, quantization: str) -> None:
    run = pefttune.run(recipe_for("T5", {"base.quantization": quantization, "training.max_steps": 4}))
    assert run.manifest["base"]["fingerprint"]["quantization"].startswith(quantization)


def test_a_t5_in_half_precision_keeps_its_own_norms(examples: Any, summarized: Any, pairs_of: Any) -> None:
    """transformers leaves `wo` in float32 there, and a norm that does not bring that back would not run."""
    session = pairs_of("T5", dtype="float16")
    dense = session.base.model.encoder.block[0].layer[1].DenseReluDense
    assert (dense.wo.weight.dtype, dense.wi_0.weight.dtype) == (torch.float32, torch.float16)
    assert all(scores.isfinite().all() for scores in session.scores("a", examples(session)))
    assert len(session.generate("a", examples(session))) == len(summarized)


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_draws_the_text_read_and_the_answer_trained(recipe_for: Any, kind: str) -> None:
    from pefttune import doctor, pipeline

    recipe = recipe_for(kind)
    report = doctor.examine(recipe, *pipeline.read_data(recipe))
    assert [str(finding) for finding in report.findings if finding.level != "note"] == []
    assert report.positions == (128 if kind == "Bart" else None)
    for shown in report.shown:
        first = {"T5": "", "Bart": "<s>"}[kind]
        text = "".join(token.text for token in shown.tokens if token.role == "read")
        assert text.startswith(f"{first}Summarize the text. About the ")
        assert text.endswith("More of it.</s>")
        answer = "".join(token.text for token in shown.tokens if token.role == "trained")
        assert answer.strip() in {f"{first}{word}</s>" for word in WORDS}


def test_the_doctor_refuses_what_the_run_refuses(recipe_for: Any) -> None:
    from pefttune import doctor, pipeline

    recipe = recipe_for("T5", task="token-classification")
    with pytest.raises(BaseError, match="token-classification reads the states of a decoder or an encoder"):
        doctor.examine(recipe, *pipeline.read_data(recipe))
