"""Two models on the same rows: agreement, metric, and how far scores are apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import bases, evaluation, tasks
from pefttune.batching import likeliest_tokens
from pefttune.data import Row
from pefttune.inference import Loaded, Session
from pefttune.recipe import schema
from pefttune.recipe import tasks as sections

DOCUMENTS = [("About the sun. More of it.", "sun 1"), ("x", "a longer one"), ("The cat sat there.", "cat")]


def test_labels_are_compared_row_by_row(base_of: Any, adapted: Any, new_model: Any, tmp_path: Path) -> None:
    # Fresh weights are so small that every text looks alike.
    session = Session(base_of(new_model(tmp_path / "loud", initializer_range=0.5)))
    adapted(session, "a", seed=1)
    adapted(session, "b", seed=2, std=0.5)
    rows = [Row({"text": f"film {number}", "label": "good"}, "") for number in range(12)]
    encoded = [session["a"].encoder(row) for row in rows]
    one, other = (evaluation.answer(session, name, rows, encoded) for name in "ab")
    said = [[str(each) for each in session.predict([row.values for row in rows], name)] for name in "ab"]
    parity = evaluation.parity(len(rows), one, other)
    agreed = sum(mine == theirs for mine, theirs in zip(*said, strict=True))
    assert 0 < agreed < len(rows), "the test needs rows of both kinds"
    assert (parity.rows, parity.choices, parity.counted, parity.agreement) == (12, 12, "rows", agreed / 12)
    assert (parity.metric, parity.before) == ("accuracy", said[0].count("good") / 12)
    assert parity.after == said[1].count("good") / 12
    flat = [example for each in encoded for example in each]
    scores = [torch.cat(session.scores(name, flat)) for name in "ab"]
    assert parity.largest == float((scores[0] - scores[1]).abs().max())
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
