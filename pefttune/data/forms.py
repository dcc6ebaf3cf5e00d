"""From the forms in which data sets have a column to the one that a task reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count, takewhile
from typing import Any

from pefttune.data import answers, messages
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened
from pefttune.data.text import is_blank

Form = Callable[[Mapping[str, Any]], Any]
"""A row to a column's value. Raises RowFault; the row has the task's names for what `data.columns` renames."""


def _summaries(row: Mapping[str, Any]) -> list[str]:
    """The references: one text, or a list of them."""
    value = row["summary"]
    return _texts("summary", value if isinstance(value, list) else [value])


def _numbered_summaries(row: Mapping[str, Any]) -> list[str]:
    """DialogSum's columns (arXiv:2105.06762): `summary1`, `summary2`, … as far as there are any."""
    columns = takewhile(row.__contains__, (f"summary{number}" for number in count(1)))
    return [text for column in columns for text in _texts(column, [row[column]])]


def _document(row: Mapping[str, Any]) -> Any:
    """One text, out of a list of sentences as well (SciTLDR, arXiv:2004.15011)."""
    value = row["document"]
    if not isinstance(value, list):
        return value
    if not all(isinstance(sentence, str) for sentence in value):
        raise RowFault("document", f"must be text or a list of sentences, not {shortened(value)}")
    return " ".join(filter(None, map(str.strip, value)))


def _texts(column: str, values: list[Any]) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise RowFault(column, f"must be text or a list of texts, not {shortened(value)}")
        if is_blank(value):
            raise RowFault(column, "is empty")
    if not values:
        raise RowFault(column, "is empty")
    return values


CONVERSATIONS: dict[tuple[str, ...], Form] = {
    ("messages",): messages.from_messages,
    ("conversations",): messages.from_conversations,
    ("instruction",): messages.from_instruction,
    ("prompt",): messages.from_prompt,
    ("question",): messages.from_question,
}
FORMS: dict[str, dict[tuple[str, ...], Form]] = {
    "answers": {
        ("answers",): answers.from_value,
        ("answer_text", "answer_start"): partial(answers.from_flat, column="answer_text"),
        ("answer", "answer_start"): partial(answers.from_flat, column="answer"),
        ("human_ans_spans", "human_ans_indices"): answers.from_subjqa,
    },
    "context": {("review", "human_ans_indices"): answers.context_of_subjqa},
    "messages": CONVERSATIONS,
    "reply": {(first,): partial(messages.reply, column=first, form=form) for (first,), form in CONVERSATIONS.items()},
    "summary": {("summary",): _summaries, ("summary1",): _numbered_summaries},
    "document": {("document",): _document},
}
"""The task's column → the columns that a form of it needs → the form. The first whose columns are there is taken."""
