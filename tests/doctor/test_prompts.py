"""What the base reads: each trap is set once, and is told; the encoders of the tasks fall into none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pefttune.data import Example, Row
from pefttune.doctor import CHECKS, check
from pefttune.doctor.prompts import (
    check_begin,
    check_same_prompt,
    check_special_strings,
    check_template,
    check_unknown,
)

MANY = [(f"a fine film number {i}", "good") for i in range(9)] + [(f"a dull one, {i}", "bad") for i in range(9)]


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_the_tasks_of_this_package_fall_into_no_trap(case_of: Any, approach: str) -> None:
    assert len(CHECKS) >= 13
    assert check(case_of(MANY, approach=approach)) == []


def test_a_begin_token_twice(case_of: Any, tokenizer: Any, only: Any) -> None:
    tokenizer.bos_token = "<|system|>"
    begin = tokenizer.bos_token_id

    def twice(example: Example) -> Example:
        return dataclasses.replace(example, prompt=(begin, *example.prompt))

    assert list(check_begin(case_of(tokenizer=tokenizer))) == []  # the template writes it once
    finding = only(check_begin, case_of(tokenizer=tokenizer, changed=twice))
    assert (finding.check, finding.level, finding.rows) == ("double-begin", "error", 4)
    assert finding.what.startswith("4 of 4 prompts begin with <|system|> twice")
    assert finding.where[0] == "train.csv:1"


def test_an_answer_that_stands_in_the_prompt(case_of: Any, only: Any) -> None:
    case = case_of()
    honest = case.encoder

    def leaking(row: Row) -> tuple[Example, ...]:
        return honest(Row({**row.values, "text": row.values["text"] + row.values.get("label", "")}, row.origin))

    assert list(check_same_prompt(case)) == []
    finding = only(check_same_prompt, dataclasses.replace(case, encoder=leaking))
    assert (finding.check, finding.level) == ("prompt-differs", "error")
    assert finding.what == "4 of 4 rows tried are read otherwise in training than at inference"


def test_a_text_that_spells_a_special_token(case_of: Any, only: Any) -> None:
    finding = only(check_special_strings, case_of([("fine<|end|>", "good"), ("dull", "bad")], [("<pad>", "bad")]))
    assert (finding.check, finding.level) == ("special-strings", "note")
    assert finding.what == "2 rows spell a special token, such as '<|end|>'"
    assert finding.where == ("train.csv:1", "test.csv:1")


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_a_text_that_ends_its_own_turn(case_of: Any, tokenizer: Any, only: Any, approach: str) -> None:
    case = case_of([("fine<|end|>", "good"), ("dull", "bad")], approach=approach)

    def naive(row: Row) -> tuple[Example, ...]:
        prompt = tuple(tokenizer(row.values["text"], add_special_tokens=False)["input_ids"])
        return (Example(prompt, (), None, row.origin),)

    finding = only(check_special_strings, dataclasses.replace(case, encoder=naive))
    assert (finding.check, finding.level, finding.where) == ("breaks-out", "error", ("train.csv:1",))


@pytest.fixture
def of_few_words(tmp_path: Path) -> Any:
    """A tokenizer that knows six words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "</s>", "a", "fine", "film"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="</s>")


def test_unknown_tokens(case_of: Any, of_few_words: Any, only: Any) -> None:
    known = [("a fine film", "good")] * 3
    case = case_of([*known, ("a film", "bad")], tokenizer=of_few_words, approach="head")
    assert list(check_unknown(case)) == []
    case = case_of([*known, ("ein film", "bad"), ("ein anderer", "bad")], tokenizer=of_few_words, approach="head")
    finding = only(check_unknown, case)
    assert (finding.check, finding.level) == ("unknown-tokens", "warning")
    assert finding.what == "3 of 13 tokens are unknown to the base's tokenizer (23.1%)"
    assert finding.where == ("train.csv:5", "train.csv:4")  # the worst first


def test_an_unknown_token_that_is_the_end_token_is_not_counted(case_of: Any, tokenizer: Any) -> None:
    tokenizer.unk_token = tokenizer.eos_token
    assert list(check_unknown(case_of(tokenizer=tokenizer))) == []


def with_template(new_tokenizer: Any, folder: Path, template: str | None) -> Any:
    new_tokenizer(folder, template)
    return AutoTokenizer.from_pretrained(folder)


def test_a_missing_chat_template(case_of: Any, new_tokenizer: Any, tmp_path: Path, only: Any) -> None:
    bare = with_template(new_tokenizer, tmp_path, None)
    finding = only(check_template, case_of(tokenizer=bare))
    assert (finding.check, finding.level) == ("no-template", "warning")
    assert list(check_template(case_of(tokenizer=bare, approach="head"))) == []


def test_a_template_without_generation_prompt(case_of: Any, new_tokenizer: Any, tmp_path: Path, only: Any) -> None:
    template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    finding = only(check_template, case_of(tokenizer=with_template(new_tokenizer, tmp_path, template)))
    assert (finding.check, finding.level) == ("no-generation-prompt", "note")
