"""Two models on the same rows: agreement, metric, and how far scores are apart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pefttune import bases, evaluation, tasks
from pefttune.batching import likeliest_tokens
from pefttune.data import Row
from pefttune.inference import Loaded, Session
from pefttune.recipe import schema
from pefttune.recipe import tasks as sections

DOCUMENTS = [("About the sun. More of it.", "sun 1"), ("x", "a longer one"), ("The cat sat there.", "cat")]


def test_labels_are_compared_row_by_row(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    adapted(session, "a", seed=1)
    adapted(session, "b", seed=2, std=0.5)
    rows = [Row({"text": f"film {number}", "label": "good" if number else "bad"}, "") for number in range(12)]
    encoded = [session["a"].encoder(row) for row in rows]
    one, other = (evaluation.answer(session, name, rows, encoded) for name in "ab")
    said = [str(each) for each in session.predict([row.values for row in rows], "a")]
    assert list(one.choices) == said
    right = [mine == row.values["label"] for mine, row in zip(said, rows, strict=True)]
    turned = replace(other, choices=("another", *one.choices[1:]), value=0.25)  # a random model says the same of all
    parity = evaluation.parity(len(rows), one, turned)
    assert (parity.rows, parity.choices, parity.counted, parity.agreement) == (12, 12, "rows", 11 / 12)
    assert (parity.metric, parity.before, parity.after) == ("accuracy", sum(right) / 12, 0.25)
    flat = [example for each in encoded for example in each]
    scores = [torch.cat(session.scores(name, flat)) for name in "ab"]
    assert parity.largest == float((scores[0] - scores[1]).abs().max()) > 0
    same = evaluation.parity(len(rows), one, one)
    assert (same.agreement, same.largest) == (1.0, 0.0)


@pytest.mark.parametrize("kind", ["T5", "Bart"])
def test_where_answers_are_written_it_is_the_likeliest_tokens(kind: str, tiny_pair: Any) -> None:
    section = schema.Base(source=str(tiny_pair(kind)), quantization="none", dtype="float32", device="cpu")
    session = Session(bases.load(section))
    task = tasks.get(sections.Summarization(type="summarization", max_new_tokens=4))
    session.add("a", Loaded(task, session.encoder(task, 96), 96))
    rows = [Row({"document": text, "summary": summary}, "") for text, summary in DOCUMENTS]
    encoded = [session["a"].encoder(row) for row in rows]
    answers = evaluation.answer(session, "a", rows, encoded)
    expected: list[int] = []
    for (example,) in encoded:
        batch = session.collator.collate([example], every_answer=True)
        with torch.no_grad():
            expected += likeliest_tokens(session.base.model, batch).tolist()
    assert answers.counted == "tokens"
    assert list(answers.choices) == expected
    assert len(expected) == len(answers.scores)
    turned = replace(answers, choices=(-1, *answers.choices[1:]))
    parity = evaluation.parity(len(rows), answers, turned)
    assert parity.agreement == pytest.approx(1 - 1 / len(expected))


def said(choices: str, *scores: float) -> evaluation.Answers:
    return evaluation.Answers("accuracy", 0.5, tuple(choices), np.asarray(scores, dtype=np.float32), "rows")


@pytest.mark.parametrize(
    ("one", "other", "largest"),
    [
        ((1.0, 2.0), (1.0, 2.5), 0.5),
        ((1.0, 2.0), (1.0, math.nan), math.inf),
        ((math.nan, 2.0), (math.nan, 2.0), math.inf),
        ((-math.inf, 2.0), (-math.inf, 2.0), 0.0),
        ((-math.inf, 2.0), (1.0, 2.0), math.inf),
    ],
)
def test_a_score_that_is_none_is_infinitely_far(
    one: tuple[float, ...], other: tuple[float, ...], largest: float
) -> None:
    assert evaluation.parity(2, said("ab", *one), said("ab", *other)).largest == largest


def test_answers_are_counted() -> None:
    assert evaluation.parity(3, said("aaa", 1, 2, 3), said("aab", 1, 2, 3)).distinct == 1
    assert evaluation.parity(3, said("aab", 1, 2, 3), said("aaa", 1, 2, 3)).distinct == 2
