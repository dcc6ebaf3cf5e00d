"""Losses and answers of an encoder-decoder are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune.inference import BASE_ITSELF
from pefttune.inference.sampling import Sampling
from pefttune.tasks import Generation

KINDS = ["T5", "Bart"]
# float32 on the same CPU: padding makes matrix products of other height, that is another order of the same sums.
ORDER_OF_SUMS = 1e-6


def plain_model(folder: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", [*KINDS, "Marian", "Pegasus"])
def test_the_loss_is_that_of_transformers_on_the_same_rows(
    examples: Any, summarized: Any, pairs_of: Any, tiny_pair: Any, kind: str
) -> None:
    session = pairs_of(kind)
    session.use("a")
    tokenizer = session.base.tokenizer
    texts, summaries = ["summarize: " + document for document, _ in summarized], [summary for _, summary in summarized]
    given = tokenizer(texts, text_target=summaries, padding=True, return_tensors="pt")
    labels = given["labels"].masked_fill(given["labels"] == tokenizer.pad_token_id, -100)
    batch = session.collator.collate(examples(session), every_answer=False)
    assert torch.equal(batch.ids_BT, given["input_ids"])
    assert batch.n_scored == int((labels != -100).sum())
    inputs = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"], "labels": labels}
    with torch.no_grad():
        adapted = session.base.model(**inputs).loss.item()
        assert session.loss("a", batch).item() == pytest.approx(adapted * batch.n_scored, rel=ORDER_OF_SUMS)
        plain = plain_model(tiny_pair(kind))(**inputs).loss.item()
        itself = session.loss(BASE_ITSELF + "a", batch).item()
    assert itself == pytest.approx(plain * batch.n_scored, rel=ORDER_OF_SUMS)
    assert abs(adapted - plain) > 1000 * ORDER_OF_SUMS, "the adapter does nothing"


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_transformers_writes(
    examples: Any, pairs_of: Any, tiny_pair: Any, kind: str, num_beams: int
) -> None:
    session, model = pairs_of(kind), plain_model(tiny_pair(kind))
    own = examples(session)
    # BART puts its end where the answer must stop: that is no end, and no part of what is written.
    forced = model.generation_config.forced_eos_token_id
    for longest in (6, 20):
        ours = session.generate(BASE_ITSELF + "a", own, Generation(longest, num_beams=num_beams))
        for example, writing in zip(own, ours, strict=True):
            ids = torch.tensor([example.prompt])
            (tokens,) = model.generate(ids, max_new_tokens=longest, min_new_tokens=0, num_beams=num_beams).tolist()
            written = tokens[1:-1] if forced is not None and len(tokens) == longest + 1 else tokens[1:]
            text = session.base.tokenizer.decode(written, skip_special_tokens=True)
            assert writing.text == text.rstrip("\ufffd").strip()  # half a character is none
            assert writing.ended == (model.generation_config.eos_token_id in written)
    assert len({writing.text for writing in ours}) > 1, "all texts look alike, so nothing is compared"


@pytest.mark.parametrize(
    "own",
    [
        {"no_repeat_ngram_size": 1, "encoder_no_repeat_ngram_size": 1, "repetition_penalty": 5.0},
        {
            "num_beams": 4,
            "length_penalty": -5.0,
            "early_stopping": True,
            "num_beam_groups": 2,
            "diversity_penalty": 1.0,
        },
        {"min_length": 15, "max_length": 5, "max_time": 1e-6, "exponential_decay_length_penalty": (2, 1.5)},
        {"do_sample": True, "temperature": 0.1, "top_k": 2, "top_p": 0.1, "min_p": 0.5, "typical_p": 0.2},
        {"num_return_sequences": 2, "num_beams": 2, "return_dict_in_generate": True, "output_scores": True},
    ],
    ids=lambda own: next(iter(own)),
)
def test_how_the_model_would_write_by_itself_changes_nothing(pairs_of: Any, examples: Any, own: dict[str, Any]) -> None:
    session = pairs_of("Bart")
    settings, asked = session.base.model.generation_config, examples(session)

    def written() -> list[Any]:
        ways = [(Generation(12), None), (Generation(12, num_beams=3), None), (Generation(12), Sampling(seed=3))]
        return [session.generate("a", asked, generation, sampling) for generation, sampling in ways]

    before = written()
    settings.update(**own)
    kept = settings.to_dict()
    assert written() == before
    assert session.base.model.generation_config is settings
    assert settings.to_dict() == kept


def test_another_thread_meets_the_models_ends_and_a_tokenizer_of_its_own(
    pairs_of: Any, examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = pairs_of("Bart")
    model, ends, met = session.base.model, session.base.model.generation_config.eos_token_id, []
    generate = model.generate

    def noting(**asked: Any) -> Any:
        met.append((model.generation_config.eos_token_id, asked["tokenizer"]))
        return generate(**asked)

    monkeypatch.setattr(model, "generate", noting)
    session.generate("a", examples(session), Generation(4, num_beams=2, stop=("x",)))
    assert ends is not None
    assert {end for end, _ in met} == {ends}
    assert all(tokenizer is not None and tokenizer is not session.base.tokenizer for _, tokenizer in met)


def test_which_language_the_model_begins_with_is_its_own(pairs_of: Any, examples: Any) -> None:
    session = pairs_of("Bart")
    session.base.model.generation_config.forced_bos_token_id = token = session.base.tokenizer.convert_tokens_to_ids("X")
    for num_beams in (1, 3):
        for writing in session.generate("a", examples(session), Generation(12, num_beams=num_beams)):
            assert writing.text.startswith("X"), token
