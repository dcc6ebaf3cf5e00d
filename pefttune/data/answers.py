"""Answers that are spans of a context: `{"text": [...], "answer_start": [...]}`, empty lists where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened

Answers = dict[str, list[Any]]
_Values = Mapping[str, Any]

NOT_FOUND = "ANSWERNOTFOUND"  # SubjQA appends it to every review, as the span to mark when nothing else answers


def as_lists(value: Any) -> Answers:
    """Two lists of equal length out of such a mapping, or of a list of `{text, answer_start}`. Raises RowFault."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        texts, starts = [each.get("text") for each in value], [each.get("answer_start") for each in value]
    else:
        texts = starts = None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise RowFault("answers", f"must be two lists of one length, `text` and `answer_start`, not {shortened(value)}")
    for number, (text, start) in enumerate(zip(texts, starts, strict=True), 1):
        if not isinstance(text, str) or not text or type(start) is not int:
            raise RowFault(
                "answers", f"answer {number} must have text and a whole number as its start, not {text!r} and {start!r}"
            )
    return {"text": texts, "answer_start": starts}


def from_value(row: _Values) -> Answers:
    """Of the column `answers` itself. Raises RowFault, as all of these do. Whether it stands there is the task's to
    check."""
    return as_lists(row["answers"])


def from_flat(row: _Values, column: str) -> Answers:
    """One answer at most, in `column`, and `answer_start`; no text there and no start, or -1: unanswerable."""
    text, start = row[column], row["answer_start"]
    if text in (None, "") and start in (None, "", -1, "-1"):
        return {"text": [], "answer_start": []}
    if not isinstance(text, str) or not text:
        raise RowFault(column, f"must be text where `answer_start` is {start!r}, not {text!r}")
    if not re.fullmatch(r"\d{1,18}", str(start)):
        raise RowFault("answer_start", f"must be a whole number, not {start!r}")
    return {"text": [text], "answer_start": [int(start)]}


def from_subjqa(row: _Values) -> Answers:
    """SubjQA's columns (arXiv:2004.14283): the indices say where the answer stands in the review.

    The span beside them is the marked words, tokenized ("$ 35" for "$35") and without what was not marked between them,
    so that the answer's text is the context's own. Where `ANSWERNOTFOUND` was marked as well as words, they count.
    """
    span, indices, context = row["human_ans_spans"], row["human_ans_indices"], context_of_subjqa(row)
    marked = re.fullmatch(r"\((\d{1,18}), (\d{1,18})\)", str(indices))
    if not marked or not isinstance(span, str):
        raise RowFault("human_ans_indices", f"must look like (12, 45), beside a span that is text, not {indices!r}")
    if span == NOT_FOUND:
        return {"text": [], "answer_start": []}
    words = span.removesuffix(NOT_FOUND).strip()
    start, end = int(marked[1]), int(marked[2])
    found = _end(words, context, start)
    if not words or end > len(context) or found is None or found > end:
        raise RowFault(
            "human_ans_indices",
            f"{indices} does not hold the span {shortened(span)}, but {shortened(context[start:end])}",
        )
    if words != span:
        end = found
    return {"text": [context[start:end]], "answer_start": [start]}


def _end(words: str, context: str, start: int) -> int | None:
    """Where the context, read from `start`, has had every character of the words in order; whitespace is free."""
    position = start
    for character in "".join(words.split()):
        position = context.find(character, position) + 1
        if position == 0:
            return None
    return position


def context_of_subjqa(row: _Values) -> str:
    """The review, under its own name as in the files of the data set, or under that of the task."""
    column = "context" if "context" in row else "review"
    context = row.get(column)
    if not isinstance(context, str):
        raise RowFault(column, f"must be text, not {shortened(context)}")
    return context
