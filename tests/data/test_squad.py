"""SQuAD's JSON: each question is a row, and whatever is wrong is told with its article and question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pefttune.data import Row, read_rows
from pefttune.data.faults import BadRow

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def question(identifier: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": identifier, "question": f"{identifier}?", "answers": given, **more}


def read(path: Path, articles: list[Any], **more: Any) -> tuple[list[Row], list[str]]:
    path.write_text(json.dumps({"version": "v2.0", "data": articles, **more}), encoding="utf-8")
    bad: list[BadRow] = []
    return list(read_rows(path, on_bad_row=bad.append)), [str(each) for each in bad]


def test_rows(tmp_path: Path) -> None:
    articles = [
        {"title": "Ada", "paragraphs": [{"context": "Ada ran.", "qas": [question("q1", ("Ada", 0), ("ran", 4))]}]},
        {"title": "None", "paragraphs": []},
        {
            "title": "Bob",
            "paragraphs": [
                {"context": "Bob sat.", "qas": []},
                {
                    "context": "Bob ate.",
                    "qas": [
                        question("q2", ("Bob", 0), is_impossible=False),
                        question("q3", is_impossible=True, plausible_answers=[{"text": "Bob", "answer_start": 0}]),
                        {"question": "kept back?"},
                        {"question": "no answers, no need?", "is_impossible": True},
                    ],
                },
            ],
        },
    ]
    rows, bad = read(tmp_path / "a.json", articles)
    assert not bad

    def row(origin: str, identifier: str | None, title: str, context: str, asked: str, *answers: Any) -> Row:
        values = {"id": identifier, "title": title, "context": context, "question": asked}
        kept = {"answers": {"text": answers[0], "answer_start": answers[1]}} if answers else {}
        return Row({**values, **kept}, f"a.json:article {origin}")

    assert rows == [
        row("1, question q1", "q1", "Ada", "Ada ran.", "q1?", ["Ada", "ran"], [0, 4]),
        row("3, question q2", "q2", "Bob", "Bob ate.", "q2?", ["Bob"], [0]),
        row("3, question q3", "q3", "Bob", "Bob ate.", "q3?", [], []),
        row("3, paragraph 2, question 3", None, "Bob", "Bob ate.", "kept back?"),
        row("3, paragraph 2, question 4", None, "Bob", "Bob ate.", "no answers, no need?", [], []),
    ]


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (question("x", is_impossible=False), ", column `answers`: are 0, but `is_impossible` is false"),
        (question("x", ("a", 0), is_impossible=True), ", column `answers`: are 1, but `is_impossible` is true"),
        ({"id": "x"}, ", column `question`: is no text"),
        (
            question("x") | {"answers": "a"},
            ", column `answers`: must be two lists of one length, `text` and `answer_start`, not 'a'",
        ),
        (
            question("x", ("a", 0)) | {"answers": [{"text": "a"}]},
            ", column `answers`: answer 1 must have text and a whole number as its start, not 'a' and None",
        ),
    ],
)
def test_a_broken_question(tmp_path: Path, broken: Any, fault: str) -> None:
    paragraph = {"context": "a b", "qas": [question("before", ("a", 0)), broken, question("after", ("b", 2))]}
    rows, bad = read(tmp_path / "a.json", [{"title": "t", "paragraphs": [paragraph]}])
    assert bad == [f"a.json:article 1, question x{fault}"]
    assert [row.values["id"] for row in rows] == ["before", "after"]


@pytest.mark.parametrize(
    "paragraph", [{"context": "a"}, {"qas": []}, {"context": 1, "qas": []}, {"context": "a", "qas": {}}, {}, "a b"]
)
def test_a_broken_paragraph(tmp_path: Path, paragraph: Any) -> None:
    good = {"context": "a b", "qas": [question("q", ("a", 0))]}
    rows, bad = read(tmp_path / "a.json", [{"paragraphs": [good, paragraph, good]}])
    assert bad == [
        "a.json:article 1, paragraph 2: needs a `context`, which is text, and `qas`, which is a list of questions"
    ]
    assert len(rows) == 2


def test_rows_that_only_have_paragraphs_are_no_articles(tmp_path: Path) -> None:
    rows = [
        {"paragraphs": ["one", "two"], "label": "x"},
        {"paragraphs": [{"idx": 0, "paragraph_text": "one"}], "question": "q"},
        {"paragraphs": "one"},
    ]
    read_back, _ = read(tmp_path / "a.json", rows)
    assert read_back == [Row(values, f"a.json:{number}") for number, values in enumerate(rows, 1)]


@pytest.mark.shared
def test_official_xquad() -> None:
    """The whole file, article by article, is the two files of rows that were made of it elsewhere."""
    rows = [row.values for row in read_rows(SHARED / "xquad" / "xquad.en.json")]
    assert len(rows) == len({row["id"] for row in rows}) == 1190
    parts = [row.values for part in ("train", "test") for row in read_rows(SHARED / "xquad" / f"{part}.jsonl")]
    assert {row["id"]: row for row in rows} == {row["id"]: row for row in parts}
