"""Rows as tokens: what is drawn is the row, and says of each token whether it is trained."""

from __future__ import annotations

from typing import Any

import pytest

from pefttune.data import Example
from pefttune.doctor import Case, ShownToken
from pefttune.doctor.drawing import show, texts_of


def text_of_role(case: Case, role: str) -> str:
    return "".join(token.text for token in show(case)[0].tokens if token.role == role)


def test_the_prompt_is_read_and_the_answer_with_its_end_is_trained(case_of: Any) -> None:
    case = case_of()
    assert text_of_role(case, "trained") == "good<|end|>"
    assert text_of_role(case, "read") == (
        "<|system|>Classify the text. Answer with one of: bad, good.<|end|><|user|>a fine film<|end|><|assistant|>"
    )


def test_a_mark_is_drawn_with_its_class(case_of: Any) -> None:
    [first, second, _] = show(case_of(approach="head"))
    assert first.tokens[-1] == ShownToken("m", "mark", "good")
    assert second.tokens[-1] == ShownToken("d", "mark", "bad")
    assert {token.role for token in first.tokens[:-1]} == {"read"}


def test_three_rows_of_different_answers_first(case_of: Any) -> None:
    train = [("a", "bad"), ("b", "bad"), ("c", "bad"), ("d", "good"), ("e", "good")]
    assert [shown.origin for shown in show(case_of(train))] == ["train.csv:1", "train.csv:4", "train.csv:2"]


def test_rows_that_teach_nothing_are_not_shown(case_of: Any) -> None:
    case = case_of(changed=lambda e: Example(e.prompt, e.answers, None, e.origin) if e.origin.endswith("1") else e)
    assert [shown.origin for shown in show(case)] == ["train.csv:2", "train.csv:3", "train.csv:4"]


@pytest.mark.parametrize("text", ["plain", "é 😀 हिन्दी", "a\n\nb", "<|end|> spelled", " "])
def test_a_character_of_several_tokens_is_drawn_once(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    drawn = list(texts_of(tokenizer, ids))
    assert len(drawn) == len(ids)
    assert "".join(drawn) == text
    assert all("\ufffd" not in each for each in drawn)


def test_bytes_that_are_no_character_end_the_text(tokenizer: Any) -> None:
    ids = tokenizer("é", add_special_tokens=False)["input_ids"][:1]
    assert "".join(texts_of(tokenizer, ids)) == "\ufffd"
