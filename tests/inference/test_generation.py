"""What is written many at a time is, token by token, what transformers writes for each prompt alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from pefttune import batching, tasks
from pefttune.data import Row
from pefttune.errors import AdapterError, DataError, InputError
from pefttune.inference import Session
from pefttune.inference.answer import Answer
from pefttune.inference.generation import can_write, groups, write
from pefttune.inference.sampling import Sampling
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Lora
from pefttune.tasks import Generation

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260k"
DOCUMENTS = [
    "Once upon a time there was a little girl. She liked to play with her ball in the park.",
    "Tom had a big dog.",
    "The sun was hot. " * 5,
    "One day a cat named Lily saw a bird up in the tree and she wanted to fly.",
    "No.",
]


@pytest.fixture(params=["tiny", pytest.param("stories", marks=pytest.mark.shared)])
def session(request: pytest.FixtureRequest, base_of: Any) -> Session:
    return Session(base_of() if request.param == "tiny" else base_of(STORIES))


@pytest.fixture
def tiny_session(base_of: Any) -> Session:
    return Session(base_of())


def add(session: Session, name: str = "a", seed: int = 1, **section: Any) -> Any:
    """A summarizer whose adapter does something."""
    task = tasks.get(sections.Summarization(type="summarization", **{"max_new_tokens": 12, **section}))
    torch.manual_seed(seed)
    loaded = session.add(name, session.attach(task, Lora(method="lora", r=4), 256))
    for parameter in loaded.parameters.values():
        parameter.data.normal_(std=0.05)
    return loaded


def add_base(session: Session) -> None:
    from pefttune.inference import Loaded

    task = tasks.get(sections.Summarization(type="summarization", max_new_tokens=12))
    session.add("base", Loaded(task, session.encoder(task, 256), 256))


def examples(session: Session, name: str = "a", documents: list[str] = DOCUMENTS) -> list[Any]:
    return [session[name].encoder(Row({"document": text}, text))[0] for text in documents]


def by_transformers(session: Session, name: str, prompt: tuple[int, ...], ends: list[int], **how: Any) -> str:
    session.use(name)
    ids = torch.tensor([prompt])
    output = session.base.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **{"max_new_tokens": 12, "do_sample": False, "eos_token_id": ends, "pad_token_id": 0, **how},
    )
    tokens = output[0, len(prompt) :].tolist()
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    text: str = session.base.tokenizer.decode(tokens[:end], skip_special_tokens=True)
    return text.rstrip("\ufffd").strip()


def common_token(session: Session, name: str) -> int:
    """One that is written in some answers and in others not, so that answers end at different steps."""
    written = [set(tokens(session, example.prompt)) for example in examples(session, name)]
    return max(set.union(*written), key=lambda token: sum(token in each for each in written) % len(written))


def tokens(session: Session, prompt: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    output = session.base.model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    return [int(token) for token in output[0, len(prompt) :]]


@pytest.mark.parametrize("name", ["a", "base"])
@pytest.mark.parametrize("max_batch_tokens", [1, 150, 10_000])
def test_together_and_alone_the_same_is_written_as_by_transformers(
    session: Session, name: str, max_batch_tokens: int
) -> None:
    add(session)
    add_base(session)
    session.use(name)
    ends = [session.base.tokenizer.eos_token_id, common_token(session, name)]
    session.base.model.generation_config.eos_token_id = ends
    session.max_batch_tokens = max_batch_tokens
    asked = examples(session, name)
    together = session.generate(name, asked)
    assert [one.text for one in together] == [by_transformers(session, name, e.prompt, ends) for e in asked]
    alone = [session.generate(name, [example])[0] for example in asked]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.ended for one in together] == [one.ended for one in alone]
    assert {one.ended for one in together} == {True, False}, "all answers go on equally long: nothing is shown"
    for one, other in zip(together, alone, strict=True):  # float32 sums in another order
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)


def test_the_likelihood_is_that_of_the_text_read_back(session: Session) -> None:
    add(session)
    [example] = examples(session, documents=DOCUMENTS[:1])
    [writing] = session.generate("a", [example])
    written = by_answer(session, example.prompt)
    [scores] = session.scores("a", [tasks.protocol.Example(example.prompt, (tuple(written),), 0, "x")])
    assert writing.log_likelihood == pytest.approx(float(scores.mean()), abs=1e-5)


def by_answer(session: Session, prompt: tuple[int, ...]) -> list[int]:
    answer = Answer(session.base.tokenizer, Generation(12), frozenset({session.base.tokenizer.eos_token_id}))
    for _ in write(session.base.model, [prompt], [answer], frozenset({1}), 10_000):
        pass
    return answer._tokens


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma3Text", "Qwen3", "Gemma2"])
def test_windows_capped_logits_and_other_kinds_of_attention(model_of: Any, tiny: Path, kind: str) -> None:
    model = model_of(kind)
    batching.prepare(model)
    tokenizer, ends = AutoTokenizer.from_pretrained(tiny), frozenset({9})
    prompts = [tuple(range(5, 5 + length)) for length in (3, 20, 11)] + [(7, 8, 9, 50, 60, 70)]
    if batching.disagreement(
        model, [tasks.protocol.Example(p, (), None, "x", marks=((1, 5),)) for p in prompts], 0, causal=True
    ):
        assert kind == "Gemma2"  # caps its scores: such a model is left to transformers
        return
    assert can_write(model)
    answers = [Answer(tokenizer, Generation(15), ends) for _ in prompts]
    for _ in write(model, prompts, answers, ends, 24):
        pass
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False, eos_token_id=9, pad_token_id=0
        )
        assert answer._tokens == output[0, len(prompt) :].tolist()


def test_a_base_that_reads_padded_batches_writes_the_same(session: Session) -> None:
    add(session)
    ragged = session.generate("a", examples(session))
    session.collator.ragged = False
    padded = session.generate("a", examples(session))
    assert [one.text for one in padded] == [one.text for one in ragged]
    assert "".join(session.stream("a", DOCUMENTS[0])) == ragged[0].text
    for one, other in zip(padded, ragged, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)


@pytest.mark.parametrize("wrong", [{"position_ids": None}, {"attention_mask": None}, {"input_ids": None}])
def test_a_base_that_goes_on_in_another_way_is_left_to_transformers(
    tiny_session: Session, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    add(tiny_session)
    expected = tiny_session.generate("a", examples(tiny_session))
    assert tiny_session.can_write
    model = tiny_session.base.model
    forward, calls = type(model).forward, []

    def other(self: Any, *args: Any, **inputs: Any) -> Any:
        if inputs.get("past_key_values") is not None and inputs["past_key_values"].get_seq_length():
            inputs |= wrong
            calls.append(inputs)
        return forward(self, *args, **inputs)

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", other.__get__(model))
        assert not can_write(model)
    assert calls
    tiny_session.__dict__["can_write"] = False
    assert [one.text for one in tiny_session.generate("a", examples(tiny_session))] == [one.text for one in expected]


def test_beams_find_what_transformers_finds(session: Session) -> None:
    add(session, num_beams=3)
    ends = [session.base.tokenizer.eos_token_id]
    written = session.generate("a", examples(session))
    alone = [by_transformers(session, "a", e.prompt, ends, num_beams=3) for e in examples(session)]
    assert [one.text for one in written] == alone
    greedy = session.generate("a", examples(session), Generation(12))
    assert [one.text for one in written] != [one.text for one in greedy]
    # Of finished answers of one length the search finds none less likely than the greedy one does.
    assert sum(one.log_likelihood for one in written) > sum(one.log_likelihood for one in greedy)


def test_an_answer_is_not_ended_before_its_least_length(tiny_session: Session) -> None:
    session = tiny_session
    add(session)
    session.use("a")
    first = tokens(session, examples(session)[0].prompt)[0]
    session.base.model.generation_config.eos_token_id = [1, first]
    assert session.generate("a", examples(session)[:1])[0] == tasks.Writing("", pytest.approx(-5, abs=5), True)
    at_least = session.generate("a", examples(session)[:1], Generation(12, min_new_tokens=5))[0]
    ids = examples(session)[0].prompt
    assert at_least.text == by_transformers(session, "a", ids, [1, first], min_new_tokens=5)
    assert at_least.text


def test_a_stop_text_ends_the_answer_and_is_cut_off(session: Session) -> None:
    add(session)
    whole = session.generate("a", examples(session))[0].text
    stop = whole[3:5]
    for generation in (Generation(12, stop=(stop, "nowhere")), Generation(12, num_beams=1, stop=("zzz", stop))):
        [cut] = session.generate("a", examples(session)[:1], generation)
        assert (cut.text, cut.ended) == (whole[: whole.index(stop)].strip(), True)
        assert "".join(session.stream("a", DOCUMENTS[0], generation)) == cut.text
        session.collator.ragged = False
        assert session.generate("a", examples(session)[:1], generation)[0].text == cut.text
        session.collator.ragged = True


def test_a_stream_is_the_text_in_pieces(session: Session) -> None:
    add(session)
    for document, writing in zip(DOCUMENTS, session.generate("a", examples(session)), strict=True):
        pieces = list(session.stream("a", document))
        assert "".join(pieces) == writing.text
        assert len(pieces) > 1
        assert all(pieces)


def test_streams_of_two_adapters_do_not_mix(session: Session) -> None:
    add(session, "a", seed=1)
    add(session, "b", seed=2)
    apart = [["".join(session.stream(name, text)) for name in "ab"] for text in DOCUMENTS]
    for text, expected in zip(DOCUMENTS, apart, strict=True):
        told = {"a": "", "b": ""}
        streams = {name: session.stream(name, text) for name in "ab"}
        while streams:
            for name in list(streams):
                piece = next(streams[name], None)
                if piece is None:
                    del streams[name]
                else:
                    told[name] += piece
        assert [told["a"], told["b"]] == expected
    assert any(a != b for a, b in apart)


def test_only_whole_characters_are_told(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    answer = Answer(tokenizer, Generation(100), frozenset({1}))
    told = []
    for token in tokenizer("aé🙂 z", add_special_tokens=False)["input_ids"]:
        answer.add(token, 0.0)
        told.append(answer.text())
    assert told == ["a", "a", "aé", "aé", "aé", "aé", "aé🙂", "aé🙂 ", "aé🙂 z"]


def test_the_beginning_of_a_stop_text_is_held_back(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    answer = Answer(tokenizer, Generation(100, stop=("###",)), frozenset({1}))
    told = []
    for token in tokenizer("a#b###c", add_special_tokens=False)["input_ids"]:
        answer.add(token, 0.0)
        told.append(answer.text())
        if answer.done:
            break
    assert told == ["a", "a", "a#b", "a#b", "a#b", "a#b"]


def test_chance_is_seeded(session: Session) -> None:
    add(session)
    asked = examples(session)

    def drawn(**how: Any) -> list[str]:
        return [one.text for one in session.generate("a", asked, sampling=Sampling(**how))]

    assert drawn(seed=1) == drawn(seed=1)
    assert drawn(seed=1) != drawn(seed=2)
    greedy = [one.text for one in session.generate("a", asked)]
    assert drawn(seed=1) != greedy
    assert drawn(temperature=1e-4, seed=1) == drawn(top_p=1e-6, seed=2) == greedy
    state = torch.get_rng_state()
    session.collator.ragged = False
    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    assert torch.equal(torch.get_rng_state(), state), "training beside it would see other dropout"


@pytest.mark.parametrize("ragged", [True, False])
def test_groups_draw_other_numbers(tiny_session: Session, monkeypatch: pytest.MonkeyPatch, ragged: bool) -> None:
    add(tiny_session)
    tiny_session.collator.ragged = ragged
    monkeypatch.setattr("pefttune.inference.generation.CACHE_MIB", 0)  # so that each answer is a group
    [one, other] = tiny_session.generate("a", examples(tiny_session)[:1] * 2, sampling=Sampling(seed=3))
    assert one.text != other.text
    assert "".join(tiny_session.stream("a", DOCUMENTS[0], sampling=Sampling(seed=3))) == one.text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, not 0; for the likeliest token each time leave"),
        ({"temperature": float("nan")}, "temperature must be a number above 0, not nan"),
        ({"top_p": 2}, "top_p must be above 0 and at most 1, not 2"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, not -1"),
        ({"seed": 3.0}, "seed must be a whole number, 0 or more, not 3.0"),
    ],
)
def test_chance_that_nothing_can_be_drawn_by_is_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"Sampling: {told}")):
        Sampling(**values)


@pytest.mark.parametrize("ragged", [True, False])
def test_a_seed_may_be_a_number_of_numpy(tiny_session: Session, ragged: bool) -> None:
    add(tiny_session)
    tiny_session.collator.ragged = ragged
    asked = examples(tiny_session)
    drawn = [tiny_session.generate("a", asked, sampling=Sampling(seed=seed)) for seed in (3, np.int64(3), np.uint8(3))]
    assert drawn == drawn[:1] * 3


def test_together_stand_as_many_as_the_cache_may_hold(tiny_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny_session
    add(session)
    asked = examples(session)
    expected = [one.text for one in session.generate("a", asked)]
    prompts, model = [example.prompt for example in asked], session.base.model
    per_position = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    longest = max(map(len, prompts)) + 12
    assert groups(prompts, model, Generation(12)) == [sorted(range(5), key=lambda i: -len(prompts[i]))]
    monkeypatch.setattr("pefttune.inference.generation.CACHE_MIB", 2 * longest * per_position / 2**20)
    found = groups(prompts, model, Generation(12))
    assert sorted(i for group in found for i in group) == list(range(5))
    assert max(map(len, found)) > 1
    for group in found:
        width = max(len(prompts[i]) for i in group) + 12
        assert len(group) == 1 or len(group) * width <= 2 * longest
    done: list[int] = []
    assert [one.text for one in session.generate("a", asked, progress=done.append)] == expected
    assert done == sorted(done)
    assert done[-1] == 5


def test_rows_are_predicted_by_writing(session: Session) -> None:
    add(session)
    rows: list[Any] = [DOCUMENTS[0], {"document": DOCUMENTS[1]}, Row({"document": DOCUMENTS[2]}, "f.csv:9")]
    predictions = list(session.predict(rows, "a"))
    written = session.generate("a", examples(session)[:3])
    assert [prediction.text for prediction in predictions] == [one.text for one in written]
    assert all(0 < prediction.confidence < 1 for prediction in predictions)
    with pytest.raises(DataError, match="text 1: document is empty"):
        session.stream("a", " ")


def test_a_task_that_only_scores_cannot_write(tiny_session: Session, adapted: Any) -> None:
    adapted(tiny_session, "labels")
    with pytest.raises(AdapterError, match="labels does text-classification: it writes nothing"):
        tiny_session.generate("labels", [])
    with pytest.raises(AdapterError, match="it writes nothing"):
        tiny_session.stream("labels", "text")
