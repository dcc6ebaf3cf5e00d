"""A summary is learned from the first reference, judged by the best, and only the document is ever cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune import tasks
from pefttune.data import Example, Row
from pefttune.data.faults import RowFault
from pefttune.errors import BaseError, DataError
from pefttune.recipe import tasks as sections
from pefttune.tasks import Written
from pefttune.tasks.rouge import rouge


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def task_of(**section: Any) -> Any:
    return tasks.get(sections.Summarization(type="summarization", **section))


def row_of(document: str, *summaries: str) -> Row:
    return Row({"document": document, "summary": list(summaries)}, "row 1")


def encoded(tokenizer: Any, row: Row, max_length: int = 256, **section: Any) -> Example:
    [example] = task_of(**section).encoder(tokenizer, max_length, causal=True)(row)
    return example


def written(*texts: str) -> list[Written]:
    return [Written(text, ("",), 1.0, False) for text in texts]


def test_the_prompt_is_the_instruction_and_the_document_and_the_answer_the_first_summary(tokenizer: Any) -> None:
    example = encoded(tokenizer, row_of("A long story.", "A story.", "Long."))
    assert (
        tokenizer.decode(example.prompt)
        == "<|system|>Summarize the text.<|end|><|user|>A long story.<|end|><|assistant|>"
    )
    assert [tokenizer.decode(answer) for answer in example.answers] == ["A story.<|end|>"]
    assert (example.target, example.truncated, example.marks) == (0, False, ())


def test_a_row_without_summary_has_the_same_prompt(tokenizer: Any) -> None:
    asked = encoded(tokenizer, Row({"document": "A long story."}, "row 1"))
    known = encoded(tokenizer, row_of("A long story.", "A story."))
    assert (asked.prompt, asked.answers, asked.target) == (known.prompt, (), None)


def test_only_the_document_is_cut_and_at_its_end(tokenizer: Any) -> None:
    fixed = len(encoded(tokenizer, row_of("x", "s"), max_new_tokens=9).prompt) - 1
    example = encoded(tokenizer, row_of("abcdefgh", "s"), max_length=fixed + 5 + 9, max_new_tokens=9)
    assert tokenizer.decode(example.prompt) == "<|system|>Summarize the text.<|end|><|user|>abcde<|end|><|assistant|>"
    assert (example.truncated, tokenizer.decode(example.answers[0])) == (True, "s<|end|>")
    whole = encoded(tokenizer, row_of("abcde", "s"), max_length=fixed + 5 + 9, max_new_tokens=9)
    assert (whole.prompt, whole.truncated) == (example.prompt, False)
    with pytest.raises(
        DataError, match=rf"{fixed + 9} tokens leave no room for a text; the prompt alone takes {fixed}"
    ):
        encoded(tokenizer, row_of("x", "s"), max_length=fixed + 9, max_new_tokens=9)


def test_a_summary_longer_than_any_that_is_written_is_cut_and_counted(tokenizer: Any) -> None:
    example = encoded(tokenizer, row_of("x", "abcdefgh"), max_new_tokens=5)
    assert (tokenizer.decode(example.answers[0]), example.answer_limit) == ("abcde", "task.max_new_tokens")
    assert not example.truncated  # the document is whole
    fits = encoded(tokenizer, row_of("x", "abcd"), max_new_tokens=5)
    assert (tokenizer.decode(fits.answers[0]), fits.answer_limit) == ("abcd<|end|>", "")


def test_an_encoder_cannot_write(tokenizer: Any) -> None:
    with pytest.raises(BaseError, match="is an encoder and cannot write summaries"):
        task_of().encoder(tokenizer, 256, causal=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"document": " ", "summary": "s"}, "document is empty"),
        ({"document": 3, "summary": "s"}, "document is int, not text"),
        ({"document": "d", "summary": []}, "summary is empty"),
        ({"document": "d", "summary": ["s", " "]}, "summary is empty"),
        ({"document": "d", "summary": ["s", None]}, "summary is NoneType, not text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RowFault) as fault:
        task_of().check(values)
    assert f"{fault.value.column} {fault.value.message}" == message


def test_one_reference_may_stand_alone() -> None:
    assert task_of().check({"document": " d ", "summary": " s "}) == {"document": "d", "summary": ["s"]}


def test_rouge_takes_the_best_reference_and_reads_stems() -> None:
    # Of "the cats sat down" (4 words) three are in "the cat sat" (3): P 3/4, R 1, F1 6/7. Worked out by hand.
    assert rouge("the cats sat down", ("a dog", "the cat sat"))["rouge_l"] == pytest.approx(6 / 7)
    assert rouge("the cats sat down", ("a dog", "the cat sat"))["rouge_2"] == pytest.approx(4 / 5)
    assert rouge("sat the cats", ("the cat sat",)) == {"rouge_1": 1.0, "rouge_2": 0.5, "rouge_l": pytest.approx(2 / 3)}


def test_metrics_are_the_means_and_the_primary_one_is_that_of_the_tallies() -> None:
    task, rows = task_of(), [row_of("d", "the cat sat"), row_of("d", "a dog", "it rains")]
    predictions = [*written("the cats sat down"), Written("it rains", ("d",), 0.5, False, ended=False)]
    metrics = task.metrics(predictions, rows)
    assert metrics["rouge_l"] == pytest.approx((6 / 7 + 1) / 2)
    assert metrics["unfinished"] == 0.5
    assert float(task.primary_of(task.tallies(predictions, rows).sum(0))) == pytest.approx(metrics["rouge_l"])
    assert next(iter(task.shown)) == "rouge_l"
    assert set(task.shown) <= set(metrics)


def test_the_lead_is_as_many_sentences_as_summaries_have(tokenizer: Any) -> None:
    rows = [row_of("One. Two! Three?", "x"), row_of("#A: Hi there.\n#B: Hello", "x")]
    name, lead = task_of().baseline([row_of("d", "Short.")], rows)
    assert (name, [prediction.text for prediction in lead]) == ("the first sentence", ["One.", "#A: Hi there."])
    name, lead = task_of().baseline([row_of("d", "A. B."), row_of("d", "A. B. C. ")], rows)
    assert (name, [prediction.text for prediction in lead]) == (
        "the first 2 sentences",
        ["One. Two!", "#A: Hi there. #B: Hello"],
    )


def test_a_prediction_is_its_text() -> None:
    [prediction] = written("A story.")
    assert str(prediction) == "A story."
    assert prediction.columns() == {"prediction": "A story.", "confidence": 1.0, "truncated": False}
    assert "".join(piece.text for piece in prediction.pieces(row_of("d"))) == ""
