"""Vectors of a few tokens, learned, in the output layer too where it is tied; the table stays as it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from pefttune import methods
from pefttune.errors import BaseError
from pefttune.inference import Session
from pefttune.methods.tokens import LearnedOutputs
from pefttune.recipe import adapters as sections

TOKENS = ("g", "<|user|>", "d")
IDS = torch.arange(2, 60)[None]
# The learned columns of tied outputs come from a product of their own: another order of 32 sums.
SUMS = 1e-5


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: Any, new_model: Any, tmp_path: Path) -> Path:
    path: Path = new_model(tmp_path / "model", tie_word_embeddings=request.param)
    return path


def attached(base: Any, tokens: tuple[str, ...] = TOKENS) -> Any:
    section = sections.TrainableTokens(method="trainable_tokens", tokens=tokens)
    return methods.attach(base.model, section, base.tokenizer)


def moved(adapter: Any) -> None:
    torch.manual_seed(3)
    for parameter in adapter.parameters.values():
        parameter.data.add_(torch.randn_like(parameter))


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    found: Tensor = model(ids, use_cache=False).logits
    return found


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_plain_peft_computes_the_same(base_of: Any, folder: Path, tmp_path: Path) -> None:
    import transformers

    base = base_of(folder)
    adapter = attached(base)
    moved(adapter)
    before = logits(base.model)
    methods.activate(base.model, adapter)
    ours = logits(base.model)
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.state()), "tiny", None)
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(folder), tmp_path)
    assert not torch.equal(ours, before)
    assert (logits(theirs) - ours).abs().max() <= SUMS * ours.abs().max()


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
def test_it_changes_nothing_at_first_learns_in_ten_steps_and_leaves_the_base_as_it_was(
    learn: Any, base_of: Any, folder: Path, quantization: str
) -> None:
    base = base_of(folder, quantization=quantization)
    model, digest, before, modules = base.model, base.digest(), logits(base.model), dict(base.model.named_modules())
    adapter = attached(base)
    methods.activate(model, adapter)
    assert torch.allclose(logits(model), before, rtol=0, atol=SUMS * float(before.abs().max()))
    learn(adapter, lambda: model(IDS, labels=IDS, use_cache=False).loss)
    trained = logits(model)
    again = attached(base)
    methods.weights.fill(again.parameters, methods.weights.copied(adapter.state()))
    assert torch.equal(logits(model), before)
    methods.activate(model, again)
    assert torch.equal(logits(model), trained)
    methods.detach(model, again)
    assert dict(model.named_modules()) == modules
    assert base.digest() == digest


@pytest.mark.parametrize("ragged_batches", [True, False])
def test_label_words_are_scored_and_learned_by_the_learned_rows(
    base_of: Any, adapted: Any, ragged: Any, examples_of: Any, folder: Path, ragged_batches: bool
) -> None:
    """Also where the base was asked first, and where this adapter was."""
    session = Session(base_of(folder))
    session.collator.ragged = ragged_batches
    adapted(session, "lora", labels=("bad", "good"))
    task = session["lora"].task
    config = sections.TrainableTokens(method="trainable_tokens", tokens=TOKENS)
    loaded = session.add("tokens", session.attach(task, config, 256))
    moved(loaded.adapter)
    examples = examples_of(loaded, ragged)
    model = session.base.model
    for example, scores in zip(examples, session.scores("tokens", examples), strict=True):
        for answer, score in zip(example.answers, scores, strict=True):
            ids = torch.tensor([[*example.prompt, *answer]])
            with session.passing("tokens"):
                chances = logits(model, ids)[0].log_softmax(-1)
            own = chances[range(len(example.prompt) - 1, ids.shape[1] - 1), answer].sum()
            assert own == pytest.approx(float(score), abs=1e-4)
    loaded.train(True)
    session.loss("tokens", session.collator.collate(examples, every_answer=False)).backward()
    (ours,) = (parameter.grad for parameter in loaded.parameters.values())
    (vectors,) = loaded.parameters.values()
    vectors.grad = None
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answers[example.target]]])
        labels = ids.clone()
        labels[0, : len(example.prompt)] = -100
        with session.passing("tokens"):
            loss = model(ids, labels=labels, use_cache=False).loss
        (loss * (labels != -100).sum()).backward()
    torch.testing.assert_close(ours, vectors.grad, rtol=1e-3, atol=1e-4)
    names = ["tokens", "lora"] * 4
    mixed = list(session.predict([text for text, _ in ragged], names))
    for (text, _), name, found in zip(ragged, names, mixed, strict=True):
        (alone,) = session.predict([text], name)
        assert alone.probabilities == pytest.approx(found.probabilities, rel=1e-3)


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_run_from_the_recipe_to_the_store_and_back(recipe_of: Any, tmp_path: Path) -> None:
    import pefttune

    run = pefttune.run(recipe_of({"adapter": {"method": "trainable_tokens", "tokens": ["<|assistant|>", "g"]}}))
    assert run.manifest["parameters"] == 2 * 32
    assert pefttune.evaluate("tiny", tmp_path / "adapters").adapter == run.comparison.adapter


def test_a_token_beyond_the_table_is_refused(base_of: Any) -> None:
    base = base_of()
    base.tokenizer.add_tokens(["<|reserved_1|>"])  # as some have
    with pytest.raises(BaseError, match="is known to the base's tokenizer, but the base has no vector for it"):
        attached(base, ("<|reserved_1|>",))


def test_an_encoder_decoder_is_refused(base_of: Any, tiny_pair: Any) -> None:
    with pytest.raises(BaseError, match="trainable_tokens works with decoders and encoders"):
        attached(base_of(tiny_pair("T5")), ("a",))


def test_a_table_that_scales_what_is_looked_up(model_of: Any) -> None:
    model = model_of("Gemma3Text")
    assert model.get_input_embeddings().embed_scale != 1
    before = logits(model)
    tokenizer = SimpleNamespace(get_vocab=lambda: {"g": 10})
    section = sections.TrainableTokens(method="trainable_tokens", tokens=("g",))
    methods.activate(model, methods.attach(model, section, tokenizer))
    assert torch.allclose(logits(model), before, rtol=0, atol=SUMS * float(before.abs().max()))


def test_outputs_have_their_bias_and_none_is_made_up_between_them() -> None:
    layer, hidden = torch.nn.Linear(8, 10), torch.randn(3, 8)
    vectors = torch.nn.Parameter(torch.randn(2, 8))
    found = LearnedOutputs(layer, torch.tensor([4, 12]), vectors)(hidden)
    expected = torch.full((3, 13), -torch.inf)
    expected[:, :10] = layer(hidden)
    expected[:, 4] = hidden @ vectors[0] + layer.bias[4]
    expected[:, 12] = hidden @ vectors[1]
    torch.testing.assert_close(found, expected)
