"""What a row must be, what labels may be, and numbers against ones worked out by hand."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import linear
from transformers import AutoTokenizer

from pefttune import tasks
from pefttune.batching import target_log_likelihoods
from pefttune.data import Example, Row
from pefttune.data.faults import RowFault
from pefttune.errors import DataError
from pefttune.inference import Session
from pefttune.recipe import tasks as sections
from pefttune.tasks import TextClassification


def task_of(labels: tuple[str, ...] | None = None, approach: str = "label-words") -> tasks.TextClassification:
    section = sections.TextClassification(type="text-classification", approach=approach, labels=labels)
    return tasks.TextClassification.from_section(section)


def rows(*labels: str) -> list[Row]:
    return [Row({"text": f"t{i}", "label": label}, f"f.csv:{i}") for i, label in enumerate(labels, start=2)]


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        ({"text": 7, "label": "a"}, "text", "is int, not text"),
        ({"text": None, "label": "a"}, "text", "is NoneType, not text"),
        ({"text": ["x"], "label": "a"}, "text", "is list, not text"),
        ({"text": "", "label": "a"}, "text", "is empty"),
        ({"text": " \n\t ", "label": "a"}, "text", "is empty"),
        ({"text": "\u200b\ufeff \u2060", "label": "a"}, "text", "is empty"),  # nothing that can be seen
        ({"text": "x", "label": None}, "label", "is empty"),
        ({"text": "x", "label": "\u200b"}, "label", "is empty"),
        ({"text": "x", "label": ""}, "label", "is empty"),
        ({"text": "x", "label": math.nan}, "label", "is empty"),
        ({"text": "x", "label": ["negative"]}, "label", "must be text or a number, not ['negative']"),
        ({"text": "x", "label": {"positive": 1}}, "label", "must be text or a number, not {'positive': 1}"),
        ({"text": "x", "label": "positve"}, "label", "'positve' is not one of negative, positive; did you mean 'pos"),
        ({"text": "x", "label": "?"}, "label", "'?' is not one of negative, positive"),
    ],
)
def test_rows_that_cannot_be_used_are_told(values: dict[str, Any], column: str, message: str) -> None:
    with pytest.raises(RowFault) as raised:
        task_of(("negative", "positive")).check(values)
    assert raised.value.column == column
    assert raised.value.message.startswith(message)


def test_good_rows_are_cleaned() -> None:
    assert task_of().check({"text": " a film\n", "label": 1}) == {"text": "a film", "label": "1"}
    assert task_of().check({"text": "a film"}) == {"text": "a film"}  # to predict, no label is needed


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (1.0, "1"), (0.5, "0.5"), (True, "True"), (" pos ", "pos"), ("0.0", "0.0")],
)
def test_a_label_is_text_or_a_number(value: Any, label: str) -> None:
    assert task_of().check({"text": "a", "label": value})["label"] == label


@pytest.mark.parametrize(
    ("value", "label"),
    [(1.0, "1.0"), (Decimal("1"), "1"), (date(2026, 11, 23), "2026-11-23"), ("2", "2")],
)
def test_a_label_is_written_as_the_recipe_names_it(value: Any, label: str) -> None:
    task = task_of(("0.0", "1.0", "1", "2", "2026-11-23", "None", "nan"))
    assert task.check({"text": "a", "label": value})["label"] == label
    for nothing in (None, math.nan):
        with pytest.raises(RowFault, match="is empty"):
            task.check({"text": "a", "label": nothing})


def test_labels_are_those_of_the_training_rows_sorted_or_as_given() -> None:
    train = rows("b", "a", "c", "a")
    assert task_of().with_labels_of(train, rows("a")).labels == ("a", "b", "c")
    assert task_of(("c", "b", "a")).with_labels_of(train, rows("a")).labels == ("c", "b", "a")


def test_one_class_is_nothing_to_learn() -> None:
    for labels in (None, ("only", "other")):
        with pytest.raises(DataError, match=r"every training row has the label 'only'.*nothing to learn"):
            task_of(labels).with_labels_of(rows("only", "only"), [])


def test_a_held_out_label_that_nobody_learns_is_told_with_its_row() -> None:
    with pytest.raises(
        DataError, match=r"^1 held-out row has in the task's column `label` .*:\n  'c' in f\.csv:3\nGive"
    ):
        task_of().with_labels_of(rows("a", "b"), rows("a", "c"))


def test_held_out_labels_that_nobody_learns_are_counted() -> None:
    held_out = rows(*"acccc", *map(str, range(20)))
    with pytest.raises(DataError) as raised:
        task_of().with_labels_of(rows("a", "b"), held_out)
    first, *lines, mend = str(raised.value).splitlines()
    assert first.startswith("24 held-out rows have in the task's column `label` what no training row has")
    assert lines[:2] == ["  'c' in f.csv:3, f.csv:4, f.csv:5 …", "  '0' in f.csv:7"]
    assert (len(lines), lines[-1]) == (11, "  and 11 more")
    assert mend.startswith("Give training rows of it, leave these rows out, or divide the rows yourself")


def prediction(label: str, probability: float, labels: tuple[str, ...]) -> tasks.Classified:
    rest = (1 - probability) / (len(labels) - 1)
    return tasks.Classified(label, {name: probability if name == label else rest for name in labels}, False)


def test_metrics_against_hand_worked_ones() -> None:
    labels = ("a", "b", "c")
    task = task_of(labels)
    said = [("a", 0.9), ("a", 0.7), ("b", 0.7), ("b", 0.5), ("c", 0.9), ("a", 0.5)]
    true = ["a", "b", "b", "b", "c", "c"]
    found = task.metrics([prediction(label, p, labels) for label, p in said], rows(*true))
    # a: 1 of 3 said is right, 1 of 1 true is found. b: 2 of 2, 2 of 3. c: 1 of 1, 1 of 2.
    assert found["accuracy"] == 4 / 6
    assert found["per_class"]["a"] == {"precision": 1 / 3, "recall": 1.0, "f1": 0.5, "rows": 1}
    assert found["per_class"]["b"] == {"precision": 1.0, "recall": 2 / 3, "f1": pytest.approx(0.8), "rows": 3}
    assert found["per_class"]["c"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2}
    assert found["macro_f1"] == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)
    assert found["confusion"] == [[1, 0, 0], [1, 2, 0], [1, 0, 1]]  # rows are true, columns are predicted
    # Bins of 1/15: two rows at 0.9 (both right), two at 0.7 (one right), two at 0.5 (one right).
    expected = (2 * abs(1 - 0.9) + 2 * abs(0.5 - 0.7) + 2 * abs(0.5 - 0.5)) / 6
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-6)  # torchmetrics computes in float32
    assert set(task.shown) <= set(found)
    assert task.watched == next(iter(task.shown)) == "accuracy"


def test_the_tallies_of_all_rows_make_the_accuracy() -> None:
    labels = ("a", "b")
    task = task_of(labels)
    said, true = [prediction(label, 0.9, labels) for label in "abba"], rows(*"abaa")
    tallies = task.tallies(said, true)
    assert tallies.tolist() == [[1, 1], [1, 1], [0, 1], [1, 1]]
    assert task.primary_of(tallies.sum(0)) == task.metrics(said, true)["accuracy"] == 0.75
    assert task.primary_of(tallies).tolist() == [1, 1, 0, 1]


def test_the_baseline_is_the_commonest_label_of_the_training_rows() -> None:
    task = task_of(("a", "b", "never"))
    name, predictions = task.baseline(rows(*"aaab"), rows(*"abb"))
    assert name == "always 'a'"
    assert [str(one) for one in predictions] == ["a"] * 3
    assert predictions[0].probabilities == {"a": 0.75, "b": 0.25, "never": 0.0}  # as sure as it is frequent
    assert predictions[0].confidence == 0.75


def test_a_prediction_tells_itself() -> None:
    row = Row({"text": "a fine [film]", "label": "good"}, "row 1")
    found = tasks.Classified("good", {"bad": 0.25, "good": 0.75}, True)
    assert str(found) == "good"
    assert found.columns() == {"prediction": "good", "confidence": 0.75, "truncated": True}
    assert found.pieces(row) == (tasks.Piece("a fine [film]"),)
    assert task_of().reference(row) == "good"


def test_a_label_nobody_predicts_or_has_counts_zero_not_nan() -> None:
    labels = ("a", "b", "never")
    found = task_of(labels).metrics([prediction("a", 0.8, labels)] * 2, rows("a", "b"))
    assert found["per_class"]["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}
    assert not any(math.isnan(found[key]) for key in ("accuracy", "macro_f1", "calibration_error"))


def example_with_scores(*scores: float, truncated: bool = False) -> Any:
    """What `decode` is given: a row, its one example, what that scores."""
    (row,) = rows("a")
    return row, (Example((1,), (), None, row.origin, truncated),), [torch.tensor(scores)]


def test_a_prediction_is_the_softmax_of_the_scores() -> None:
    task = task_of(("a", "b", "c"))
    found = task.decode(*example_with_scores(-3.0, -1.0, -2.0, truncated=True))
    total = math.exp(-2) + 1 + math.exp(-1)
    assert found.label == "b"
    assert found.truncated
    assert found.probabilities == pytest.approx({"a": math.exp(-2) / total, "b": 1 / total, "c": math.exp(-1) / total})
    assert found.confidence == found.probabilities["b"]
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_scores_far_below_zero_are_still_probabilities() -> None:
    found = task_of(("a", "b")).decode(*example_with_scores(-2000.0, -2001.0))
    assert not found.truncated
    assert found.probabilities["a"] == pytest.approx(1 / (1 + math.exp(-1)))


@torch.no_grad()
def test_label_scores_are_the_log_softmaxes_of_the_models_full_logits(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    labels = ("bad", "good", "so so")
    loaded = adapted(session, "a", labels=labels)
    texts = ["a film", "poor, dull and long, and then some more", "x"]
    examples = [example for text in texts for example in loaded.encoder(Row({"text": text}, text))]
    found = session.scores("a", examples)
    assert [scores.shape for scores in found] == [(3,)] * 3
    for example, scores in zip(examples, found, strict=True):
        for answer, score in zip(example.answers, scores, strict=True):
            logits = session.base.model(torch.tensor([[*example.prompt, *answer]])).logits[0].double()
            by_hand = 0.0
            for place, token in enumerate(answer, start=len(example.prompt)):
                row = logits[place - 1]
                by_hand += float(row[token] - row.exp().sum().log())
            # Scores are float32 sums of up to six terms near -6, in a padded batch: a last bit is 2e-6.
            assert float(score) == pytest.approx(by_hand, abs=2e-5)


@torch.no_grad()
def test_head_scores_are_the_log_softmax_of_the_last_hidden_state(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    loaded = adapted(session, "a", labels=("x", "y", "z"), approach="head")
    (example,) = loaded.encoder(Row({"text": "a film"}, ""))
    (found,) = session.scores("a", [example])
    hidden = session.base.model.base_model(torch.tensor([example.prompt])).last_hidden_state[0, -1]
    by_hand = torch.log_softmax(loaded.head.linear.weight @ hidden, -1)
    # A product with a vector may sum in another order than one with a matrix: 32 float32 terms.
    assert (found - by_hand).abs().max() < 1e-6


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_the_loss_is_the_sum_over_labelled_positions(
    base_of: Any, adapted: Any, examples_of: Any, ragged: Any, approach: str
) -> None:
    session = Session(base_of())
    loaded = adapted(session, "a", approach=approach)
    examples = examples_of(loaded, ragged)
    batch = session.collator.collate(examples, every_answer=False)
    loss = float(session.loss("a", batch).detach())
    scores = session.scores("a", examples)
    targets = [int(e.marks[0][1]) if approach == "head" else e.target for e in examples]
    right = sum(float(own[target]) for own, target in zip(scores, targets, strict=True))
    assert loss == pytest.approx(-right, rel=1e-6)  # the same float32 sums in batches of other width
    assert batch.n_scored == (len(examples) if approach == "head" else sum(len(e.answers[e.target]) for e in examples))


def test_zero_shot_asks_for_the_label_words() -> None:
    task = task_of(("a", "b"), approach="head")
    assert (task.zero_shot().approach, task.zero_shot().labels) == ("label-words", ("a", "b"))


def test_logits_of_the_prompts_own_tokens_are_never_made(
    base_of: Any, adapted: Any, examples_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, rows = Session(base_of()), []
    loaded = adapted(session, "a")
    batch = session.collator.collate(examples_of(loaded, [("a long text about a film", "good")]), every_answer=False)
    monkeypatch.setattr(
        "pefttune.batching.forward.linear", lambda x, *weights: rows.append(len(x)) or linear(x, *weights)
    )
    assert target_log_likelihoods(session.base.model, batch).shape == (len("good") + 1,)
    assert rows == [len("good") + 1]


def test_the_base_is_asked_without_the_end_that_it_was_never_told_to_give(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    row = Row({"text": "a film"}, "row 1")
    asked = TextClassification("label-words", ("bad", "good"), "Which?").zero_shot()
    (example,) = asked.encoder(tokenizer, 256, causal=True)(row)
    assert all(answer[-1] != tokenizer.eos_token_id for answer in example.answers)
    nested = TextClassification("label-words", ("good", "goodness"), "Which?").zero_shot()
    (example,) = nested.encoder(tokenizer, 256, causal=True)(row)
    assert all(answer[-1] == tokenizer.eos_token_id for answer in example.answers)


def test_space_around_a_label_is_no_part_of_it() -> None:
    task = TextClassification("head", (), "")
    assert task.check({"text": "a", "label": " bad"})["label"] == "bad"
    with pytest.raises(RowFault):
        task.check({"text": "a", "label": "  "})
