"""Rows as an encoder-decoder reads them: the tokenizer's own tokens, and what goes where a text is too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pefttune import tasks
from pefttune.data import Row
from pefttune.errors import DataError
from pefttune.recipe import tasks as sections

TALK = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
]


@pytest.fixture(scope="module", params=["T5", "Bart"])
def tokenizer(request: pytest.FixtureRequest, tiny_pair: Any) -> Any:
    from pefttune.bases.load import load_tokenizer

    folder: Path = tiny_pair(request.param)
    return load_tokenizer(folder)


def encode(tokenizer: Any, max_length: int, values: dict[str, Any], **section: Any) -> Any:
    written = tasks.get(sections.TextGeneration(type="text-generation", **{"max_new_tokens": 8, **section}))
    kind = {"causal": True, "encoder_decoder": True}
    (example,) = tasks.encoder_of(written, tokenizer, max_length, **kind)(Row(values, "row"))
    return example


def read(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text)["input_ids"])


def test_one_turn_stands_alone_behind_the_prefix(tokenizer: Any) -> None:
    values = {"messages": TALK[:1], "reply": "Four."}
    example = encode(tokenizer, 100, values, system="Count.")
    assert example.prompt == read(tokenizer, "Count. Two and two?")
    assert example.answers == (tuple(tokenizer(text_target="Four.")["input_ids"]),)
    assert (example.target, example.truncated, example.marks) == (0, False, ())
    assert encode(tokenizer, 100, values).prompt == read(tokenizer, "Two and two?")


def test_the_prompt_is_the_same_without_a_reply(tokenizer: Any) -> None:
    known = encode(tokenizer, 100, {"messages": TALK, "reply": "Five."})
    asked = encode(tokenizer, 100, {"messages": TALK})
    assert (asked.prompt, asked.answers, asked.target) == (known.prompt, (), None)


def test_several_turns_are_lines_with_their_roles_and_the_last_reply_is_learned(tokenizer: Any) -> None:
    said = [{"role": "system", "content": "Be brief."}, *TALK]
    example = encode(tokenizer, 100, {"messages": said, "reply": "Five."}, system="Count.")
    text = "User: Two and two?\nAssistant: Four.\nUser: And one?"
    assert example.prompt == read(tokenizer, f"Be brief. {text}")
    assert example.answers == (tuple(tokenizer(text_target="Five.")["input_ids"]),)


def test_what_looks_like_a_special_token_is_spelled_out(tokenizer: Any) -> None:
    example = encode(tokenizer, 100, {"messages": [{"role": "user", "content": "a </s> b"}], "reply": "</s>"})
    end = tokenizer.eos_token_id
    assert example.prompt.count(end) == example.answers[0].count(end) == 1
    assert "/s> b" in tokenizer.decode(example.prompt)


def test_of_a_long_conversation_the_oldest_exchange_goes_first(tokenizer: Any) -> None:
    whole = len(read(tokenizer, "User: Two and two?\nAssistant: Four.\nUser: And one?"))
    example = encode(tokenizer, whole - 1, {"messages": TALK, "reply": "Five."})
    assert (example.prompt, example.truncated) == (read(tokenizer, "And one?"), True)


def test_a_long_text_loses_its_end_but_no_special_token(tokenizer: Any) -> None:
    whole = read(tokenizer, "Count. Two and two?")
    example = encode(tokenizer, len(whole) - 4, {"messages": TALK[:1], "reply": "Four."}, system="Count.")
    assert example.prompt == read(tokenizer, "Count. Two and ")[:-1] + whole[-1:]
    assert (len(example.prompt), example.truncated) == (len(whole) - 4, True)


def test_a_summary_can_go_without_an_instruction(tokenizer: Any) -> None:
    written = tasks.get(sections.Summarization(type="summarization", instruction=None, max_new_tokens=8))
    encoder = tasks.encoder_of(written, tokenizer, 100, causal=True, encoder_decoder=True)
    assert encoder(Row({"document": "A text."}, "row"))[0].prompt == read(tokenizer, "A text.")
    assert encoder.render() == "{text}"


def test_a_system_message_that_leaves_no_room_is_told(tokenizer: Any) -> None:
    told = [{"role": "system", "content": "Answer in one word. " * 20}, *TALK[:1]]
    with pytest.raises(DataError, match="the system message leaves no room for what the user says; shorten it"):
        encode(tokenizer, 40, {"messages": told, "reply": "Four."})


def test_a_long_answer_is_cut_and_says_so(tokenizer: Any) -> None:
    written = tasks.get(sections.Summarization(type="summarization", max_new_tokens=8))
    encoder = tasks.encoder_of(written, tokenizer, 100, causal=True, encoder_decoder=True)
    (example,) = encoder(Row({"document": "x", "summary": ["a rather long one"]}, "row"))
    assert example.answers[0] == tuple(tokenizer(text_target="a rather long one")["input_ids"])[:8]
    assert (example.truncated, example.answer_limit) == (False, "task.max_new_tokens")
    assert encoder.render() == "Summarize the text. {text}"
