"""Data sets as their makers published them, in the forms that tasks read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pefttune.data import load, read_rows, take_columns
from pefttune.recipe.schema import Data

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
QA = ("context", "question", "answers")


def converted(name: str, columns: tuple[str, ...], renamed: dict[str, str]) -> list[dict[str, Any]]:
    return [take_columns(row.values, columns, renamed) for row in read_rows(SHARED / name)]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("part", "count", "answerable", "as_given"),
    [("train", 2154, 1291, 1095), ("dev", 240, 147, 128), ("test", 1040, 614, 510)],
)
def test_official_subjqa(part: str, count: int, answerable: int, as_given: int) -> None:
    """The answer is the context's own text in every row; in about one of six the span beside it is not, being tokenized
    or with gaps, and then it is never longer than the passage that holds it."""
    rows = converted(f"subjqa/{part}.csv", (*QA, "human_ans_spans"), {})
    assert len(rows) == count
    answers = [(row, *pair) for row in rows for pair in zip(*row["answers"].values(), strict=True)]
    assert len(answers) == answerable
    assert all(row["context"][start : start + len(text)] == text for row, text, start in answers)
    assert sum(text == row["human_ans_spans"] for row, text, _ in answers) == as_given
    assert not [text for _, text, _ in answers if "ANSWERNOTFOUND" in text or text != text.strip()]
    letters = [
        (Counter(row["human_ans_spans"].replace("ANSWERNOTFOUND", "")), Counter(text)) for row, text, _ in answers
    ]
    assert all(not [each for each in span - text if not each.isspace()] for span, text in letters)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "count"), [("xquad.en.json", 1190), ("train.jsonl", 970), ("test.jsonl", 220)])
def test_official_xquad_answers(name: str, count: int) -> None:
    assert [len(row["answers"]["text"]) for row in converted(f"xquad/{name}", QA, {})] == [1] * count


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "references"),
    [
        ("dialogsum/dialogsum.dev.jsonl", {1: 500}),
        ("dialogsum/dialogsum.test.jsonl", {3: 500}),
        ("scitldr/train.jsonl", {1: 1992}),
        ("scitldr/dev.jsonl", {1: 94, 2: 237, 3: 267, 4: 21}),
        ("scitldr/test.jsonl", {2: 83, 3: 339, 4: 196}),
    ],
)
def test_official_summaries(name: str, references: dict[int, int]) -> None:
    renamed = {"document": "source", "summary": "target"} if "scitldr" in name else {"document": "dialogue"}
    rows = converted(name, ("document", "summary"), renamed)
    assert Counter(len(row["summary"]) for row in rows) == references
    assert all(isinstance(row["document"], str) and len(row["document"]) > 20 for row in rows)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "asked", "reply", "count"),
    [
        ("instruction/instruction-data.json", ("instruction", "input"), "output", 1100),
        ("instruction/instruction-data-with-preference.json", ("instruction", "input"), "output", 1100),
        ("gsm8k/train.jsonl", ("question",), "answer", 7473),
        ("gsm8k/test.jsonl", ("question",), "answer", 1319),
    ],
)
def test_official_conversations(name: str, asked: tuple[str, ...], reply: str, count: int) -> None:
    rows = list(read_rows(SHARED / name))
    assert len(rows) == count
    for row in rows:
        wanted = "\n".join(row.values[column] for column in asked if row.values[column])
        turns = [{"role": "user", "content": wanted}, {"role": "assistant", "content": row.values[reply]}]
        assert take_columns(row.values, ("messages",), {}) == {"messages": turns}


@pytest.mark.shared
def test_official_subjqa_whole() -> None:
    """221 of the 240 official validation rows have a review and question of the training rows, which gives them up."""
    parts = {"train": "train", "validation": "dev", "test": "test"}
    files = {part: str(SHARED / "subjqa" / f"{name}.csv") for part, name in parts.items()}
    report = load(Data(**files, columns={"context": "review"}), QA, QA[:2], dict).report
    assert (report.rows["validation"], report.rows["test"], report.bad_rows) == (240, 1040, ())
    assert report.duplicates_removed == {"train": 238, "validation": 0}
    assert report.rows["train"] == 2154 - 238
