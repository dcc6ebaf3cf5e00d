"""The JSON form of SQuAD, v1.1 (arXiv:1606.05250) and v2 (arXiv:1806.03822): questions in paragraphs in articles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pefttune.data.answers import as_lists
from pefttune.data.example import Row
from pefttune.data.faults import BadRow, RowFault


def is_article(value: Any) -> bool:
    """Whether an element of a JSON file is an article of SQuAD, and not a row."""
    paragraphs = value.get("paragraphs") if isinstance(value, dict) else None
    if not isinstance(paragraphs, list):
        return False
    known = [isinstance(paragraph, dict) and paragraph.keys() & {"context", "qas"} for paragraph in paragraphs]
    return any(known) or not known


def questions(article: Mapping[str, Any], origin: str) -> Iterator[Row | BadRow]:
    """Each question of an article as a row of the Hub's `squad_v2`: id, title, context, question, answers.

    A question without `answers`, as in a test whose answers are kept back, is a row without that column. `origin`
    names the article; a row's names its id as well, or where it stands.
    """
    for number, paragraph in enumerate(article["paragraphs"], 1):
        place = f"{origin}, paragraph {number}"
        context, asked = map(paragraph.get, ("context", "qas")) if isinstance(paragraph, dict) else (None, None)
        if not isinstance(context, str) or not isinstance(asked, list):
            yield BadRow(place, None, "needs a `context`, which is text, and `qas`, which is a list of questions")
            continue
        for index, question in enumerate(asked, 1):
            known = isinstance(question, dict) and "id" in question
            where = f"{origin}, question {question['id']}" if known else f"{place}, question {index}"
            try:
                yield Row(_values(question, context, article.get("title")), where)
            except RowFault as fault:
                yield BadRow(where, fault.column, fault.message)


def _values(question: Any, context: str, title: Any) -> dict[str, Any]:
    if not isinstance(question, dict) or not isinstance(question.get("question"), str):
        raise RowFault("question", "is no text")
    values = {"id": question.get("id"), "title": title, "context": context, "question": question["question"]}
    impossible = question.get("is_impossible")
    if "answers" not in question and not impossible:
        return values
    answers = as_lists(question.get("answers", []))
    if impossible is not None and bool(impossible) == bool(answers["text"]):
        raise RowFault("answers", f"are {len(answers['text'])}, but `is_impossible` is {str(bool(impossible)).lower()}")
    return {**values, "answers": answers}
