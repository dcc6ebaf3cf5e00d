"""What is trained: traps 9 of the field (the end masked, nothing to learn, answers cut) are set and told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune.data import Example, Row
from pefttune.doctor.answers import (
    check_alignment,
    check_end,
    check_label_words,
    check_something_to_learn,
    check_template_end,
)


def endless(example: Example) -> Example:
    """The end of the answer masked, as where padding is the end token."""
    return dataclasses.replace(example, answers=tuple(answer[:-1] for answer in example.answers))


def unlabelled(example: Example) -> Example:
    return dataclasses.replace(example, target=None, marks=tuple((at, -100) for at, _ in example.marks))


def test_no_answer_with_its_end(case_of: Any, only: Any) -> None:
    assert list(check_end(case_of())) == []
    finding = only(check_end, case_of(changed=endless))
    assert (finding.check, finding.level) == ("no-end", "error")
    assert finding.what == "no answer is trained with its end (<|end|>), so the model would not learn to stop"


def test_answers_that_are_cut(case_of: Any, only: Any) -> None:
    case = case_of(changed=lambda example: endless(example) if example.origin.endswith("2") else example)
    finding = only(check_end, case)
    assert (finding.check, finding.level, finding.where) == ("cut-answer", "error", ("train.csv:2",))
    assert finding.what == "1 of 4 training answers are cut: they go without their end (<|end|>)"


def test_an_end_in_the_middle_is_none(case_of: Any, only: Any) -> None:
    def two_turns(example: Example) -> Example:
        return dataclasses.replace(example, answers=tuple((*answer, *answer[:-1]) for answer in example.answers))

    assert only(check_end, case_of(changed=two_turns)).check == "no-end"


def test_a_line_break_after_the_end_is_fine(case_of: Any, tokenizer: Any) -> None:
    [line_break] = tokenizer("\n", add_special_tokens=False)["input_ids"]

    def broken(example: Example) -> Example:
        return dataclasses.replace(example, answers=tuple((*answer, line_break) for answer in example.answers))

    assert list(check_end(case_of(changed=broken))) == []


def test_a_head_has_no_end(case_of: Any) -> None:
    assert list(check_end(case_of(approach="head"))) == []


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_nothing_to_learn(case_of: Any, only: Any, approach: str) -> None:
    assert list(check_something_to_learn(case_of(approach=approach))) == []
    finding = only(check_something_to_learn, case_of(approach=approach, changed=unlabelled))
    assert (finding.check, finding.level, finding.rows) == ("nothing-to-learn", "error", 4)
    one = case_of(approach=approach, changed=lambda e: unlabelled(e) if e.origin.endswith("2") else e)
    finding = only(check_something_to_learn, one)
    assert (finding.level, finding.where) == ("warning", ("train.csv:2",))


def test_a_row_learns_if_one_of_its_windows_does(case_of: Any) -> None:
    case = case_of(approach="head")
    windows = [each for example in case.train for each in (unlabelled(example), example)]
    case = dataclasses.replace(case, examples={**case.examples, "train": windows})
    assert list(check_something_to_learn(case)) == []


def test_a_turn_that_ends_otherwise_than_answers(case_of: Any, new_tokenizer: Any, tmp_path: Path, only: Any) -> None:
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<pad>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    new_tokenizer(tmp_path, template)
    assert list(check_template_end(case_of())) == []
    finding = only(check_template_end, case_of(tokenizer=AutoTokenizer.from_pretrained(tmp_path)))
    assert (finding.check, finding.level) == ("other-end", "note")
    assert "are trained to end with <|end|>, but the base's chat template ends a turn with <pad>" in finding.what


def test_a_template_that_refuses_the_conversation(case_of: Any, new_tokenizer: Any, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no assistant') }}{% endif %}"
        "<|{{ m['role'] }}|>{{ m['content'] }}<pad>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    new_tokenizer(tmp_path, template)
    assert list(check_template_end(case_of(tokenizer=AutoTokenizer.from_pretrained(tmp_path)))) == []


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("bad", "good"), {}),
        (("bad", "brave", "good"), {"labels-begin-alike": "2 labels begin with the same token"}),
        (("abcdefghi", "good"), {"long-labels": "the label 'abcdefghi' is 10 tokens"}),
        (("1", "2"), {"number-labels": "the labels are numbers (1, 2)"}),
    ],
)
def test_label_words(case_of: Any, labels: tuple[str, ...], told: dict[str, str]) -> None:
    rows = [("x", labels[0]), ("y", labels[-1])]
    findings = {finding.check: finding.what for finding in check_label_words(case_of(rows, labels=labels))}
    assert findings.keys() == told.keys()
    assert all(findings[check].startswith(words) for check, words in told.items())
    assert list(check_label_words(case_of(rows, labels=labels, approach="head"))) == []


def test_spans_that_do_not_align(case_of: Any, only: Any) -> None:
    class Spans:
        def __call__(self, row: Row) -> tuple[Example, ...]:
            raise AssertionError("not encoded again")

        def render(self) -> str:
            return ""

        def misaligned(self, row: Row) -> list[str]:
            return ["ine f"] if "fine" in row.values["text"] else []

    case = case_of()
    assert list(check_alignment(case)) == []  # an encoder that knows nothing of spans
    finding = only(check_alignment, dataclasses.replace(case, encoder=Spans()))
    assert (finding.check, finding.level, finding.where) == ("misaligned", "warning", ("train.csv:1 'ine f'",))
