"""The forms in which data sets have answers, conversations and summaries, and what is said of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pefttune.data import read_rows, take_columns
from pefttune.data.columns import NoColumn, mapped
from pefttune.data.faults import BadRow, RowFault
from pefttune.errors import DataError

QA = ("context", "question", "answers")
CONTEXT = "Ada paid $35, twice."
NONE = {"text": [], "answer_start": []}
ADA = {"text": ["Ada"], "answer_start": [0]}


def taken(row: dict[str, Any], column: str, renamed: dict[str, str] | None = None) -> Any:
    return take_columns(row, (column,), renamed or {})[column]


def fault(row: dict[str, Any], column: str, renamed: dict[str, str] | None = None) -> str:
    with pytest.raises(RowFault) as caught:
        taken(row, column, renamed)
    return f"{caught.value.column}: {caught.value.message}"


# Answers


@pytest.mark.parametrize(
    ("columns", "answers"),
    [
        ({"answers": ADA}, ADA),
        (
            {"answers": {"text": ["Ada", "$35"], "answer_start": [0, 9]}},
            {"text": ["Ada", "$35"], "answer_start": [0, 9]},
        ),
        ({"answers": NONE}, NONE),
        ({"answers": [{"text": "Ada", "answer_start": 0}]}, ADA),
        ({"answers": []}, NONE),
        ({"answer_text": "Ada", "answer_start": 0}, ADA),
        ({"answer": "$35", "answer_start": "9"}, {"text": ["$35"], "answer_start": [9]}),
        ({"answer": "", "answer_start": ""}, NONE),
        ({"answer_text": None, "answer_start": -1}, NONE),
        ({"human_ans_spans": "Ada", "human_ans_indices": "(0, 3)"}, ADA),
        ({"human_ans_spans": "ANSWERNOTFOUND", "human_ans_indices": "(21, 35)"}, NONE),
        # SubjQA's spans are tokenized, leave out what was not marked, and may end in the mark for no answer.
        ({"human_ans_spans": "paid $ 35", "human_ans_indices": "(4, 12)"}, {"text": ["paid $35"], "answer_start": [4]}),
        ({"human_ans_spans": "Ada twice .", "human_ans_indices": "(0, 20)"}, {"text": [CONTEXT], "answer_start": [0]}),
        (
            {"human_ans_spans": "Ada paid ANSWERNOTFOUND", "human_ans_indices": "(0, 20)"},
            {"text": ["Ada paid"], "answer_start": [0]},
        ),
        # The first form whose columns are there.
        ({"answers": ADA, "answer": "other", "answer_start": 99}, ADA),
    ],
)
def test_answers(columns: dict[str, Any], answers: Any) -> None:
    row = {"context": CONTEXT, "question": "who?", **columns}
    assert take_columns(row, QA, {}) == {"context": CONTEXT, "question": "who?", "answers": answers}
    review = {"review": CONTEXT, "context": "something else", "question": "who?", **columns}
    assert take_columns(review, QA, {"context": "review"})["answers"] == answers


LISTS = "answers: must be two lists of one length, `text` and `answer_start`, not "


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answers": "Ada"}, f"{LISTS}'Ada'"),
        ({"answers": None}, f"{LISTS}None"),
        ({"answers": ["Ada"]}, f"{LISTS}['Ada']"),
        ({"answers": {"text": ["Ada"]}}, f"{LISTS}{{'text': ['Ada']}}"),
        ({"answers": {"text": ["Ada"], "answer_start": []}}, f"{LISTS}{{'text': ['Ada'], 'answer_start': []}}"),
        (
            {"answers": {"text": ["Ada", 3], "answer_start": [0, 1]}},
            "answers: answer 2 must have text and a whole number as its start, not 3 and 1",
        ),
        (
            {"answers": [{"text": "Ada", "answer_start": True}]},
            "answers: answer 1 must have text and a whole number as its start, not 'Ada' and True",
        ),
        ({"answer": "", "answer_start": 4}, "answer: must be text where `answer_start` is 4, not ''"),
        (
            {"answer_text": ["Ada"], "answer_start": 0},
            "answer_text: must be text where `answer_start` is 0, not ['Ada']",
        ),
        ({"answer": "Ada", "answer_start": "x"}, "answer_start: must be a whole number, not 'x'"),
        ({"answer": "Ada", "answer_start": None}, "answer_start: must be a whole number, not None"),
        (
            {"human_ans_spans": "Ada", "human_ans_indices": "0-3"},
            "human_ans_indices: must look like (12, 45), beside a span that is text, not '0-3'",
        ),
        (
            {"human_ans_spans": "Ada", "human_ans_indices": "(0, 21)"},
            "human_ans_indices: (0, 21) does not hold the span 'Ada', but 'Ada paid $35, twice.'",
        ),
        (
            {"human_ans_spans": "Ada paid", "human_ans_indices": "(0, 5)"},
            "human_ans_indices: (0, 5) does not hold the span 'Ada paid', but 'Ada p'",
        ),
        (
            {"human_ans_spans": "Bob", "human_ans_indices": "(0, 3)"},
            "human_ans_indices: (0, 3) does not hold the span 'Bob', but 'Ada'",
        ),
        (
            {"human_ans_spans": "", "human_ans_indices": "(0, 3)"},
            "human_ans_indices: (0, 3) does not hold the span '', but 'Ada'",
        ),
    ],
)
def test_answers_that_are_none(columns: dict[str, Any], message: str) -> None:
    assert fault({"context": CONTEXT, **columns}, "answers") == message


# Conversations


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + said


def shared(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": said} for who, said in pairs]


TALK = turns("hi", "hello", "and?", "so", system="be kind")
SHARED_TALK = shared(("system", "be kind"), ("human", "hi"), ("gpt", "hello"), ("human", "and?"), ("gpt", "so"))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": TALK}, TALK),
        ({"messages": turns("hi")}, turns("hi")),
        ({"messages": "hi"}, turns("hi")),
        (
            {"messages": [{"role": "user", "content": " hi\n", "name": "Ada", "tool_calls": None, "weight": 1}]},
            turns(" hi\n"),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]},
            turns("hi"),
        ),
        ({"messages": SHARED_TALK}, TALK),
        ({"conversations": SHARED_TALK}, TALK),
        ({"conversations": SHARED_TALK[1:], "system": "be kind"}, TALK),
        ({"conversations": SHARED_TALK, "system": ""}, TALK),
        ({"instruction": "add", "input": "1 1", "output": "2"}, turns("add\n1 1", "2")),
        ({"instruction": "hi", "input": "", "output": "hello"}, turns("hi", "hello")),
        ({"instruction": "hi"}, turns("hi")),
        ({"instruction": "hi", "input": None, "output": None}, turns("hi")),
        ({"instruction": "and?", "output": "so", "history": [["hi", "hello"]], "system": "be kind"}, TALK),
        ({"prompt": "hi", "completion": "hello"}, turns("hi", "hello")),
        ({"prompt": "hi"}, turns("hi")),
        ({"prompt": TALK[:4], "completion": TALK[4:]}, TALK),
        ({"prompt": turns("hi")}, turns("hi")),
        ({"instruction": "add", "context": "1 1", "response": "2"}, turns("add\n1 1", "2")),
        ({"instruction": "hi", "input": None, "context": "!", "output": None, "response": "ho"}, turns("hi\n!", "ho")),
        ({"instruction": "hi", "input": "!", "context": "", "output": "ho", "response": None}, turns("hi\n!", "ho")),
        ({"instruction": "hi", "output": "ho", "response": "ho"}, turns("hi", "ho")),
        ({"instruction": "hi", "output": None, "response": ""}, turns("hi")),
        ({"question": "hi", "answer": "hello"}, turns("hi", "hello")),
        ({"question": "hi", "context": "", "tools": [], "images": None}, turns("hi")),
        ({"messages": [{"role": "user", "content": "hi", "from": None, "value": None}]}, turns("hi")),
        ({"messages": [{"role": "user", "content": "hi", "from": "human", "value": "hi"}]}, turns("hi")),
        ({"messages": [{"role": "user", "content": "hi", "train": True, "reasoning_content": ""}]}, turns("hi")),
        ({"question": "hi"}, turns("hi")),
        ({"messages": turns("hi"), "prompt": "other", "question": "another"}, turns("hi")),
    ],
)
def test_messages(row: dict[str, Any], messages: Any) -> None:
    assert taken({"id": 7, **row}, "messages") == messages


ORDER = "should be: after a system message at most, user and assistant take turns"
UNREAD = "is not read here, and would change the training: write it into a turn, or leave the column out"
BESIDE = ", in whose place it is read: leave out one of the two columns"
NO_TURN = "must have `role` and `content`, or `from` and `value`, not "


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": 5}, "messages: must be a list of messages, not 5"),
        ({"messages": " "}, "messages: is empty"),
        ({"messages": []}, "messages: must be a list of messages, not []"),
        ({"messages": [*turns("hi"), "hello"]}, f"messages: turn 2 {NO_TURN}'hello'"),
        (
            {"messages": [{"role": "user", "value": "hi"}]},
            f"messages: turn 1 {NO_TURN}{{'role': 'user', 'value': 'hi'}}",
        ),
        ({"messages": turns("hi", " ")}, "messages: turn 2 is empty"),
        ({"messages": [{"role": "user", "content": []}]}, "messages: turn 1 is empty"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages: turn 1 must be text, or a list of parts of text, not None",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages: turn 1 must be text, or a list of parts of text, not [{'type': 'image_url'}]",
        ),
        (
            {"messages": [{"role": "narrator", "content": "hi"}]},
            "messages: turn 1 has the role 'narrator', which is none of `system`, `user`, `assistant`, `human`, `gpt`",
        ),
        (
            {"messages": [{"role": ["user"], "content": "hi"}]},
            "messages: turn 1 has the role ['user'], which is none of `system`, `user`, `assistant`, `human`, `gpt`",
        ),
        (
            {"messages": [*turns("hi"), {"role": "tool", "content": "42"}]},
            "messages: turn 2 is a tool's (`tool`); only those of system, user and assistant are read here",
        ),
        (
            {"messages": [*turns("hi"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages: turn 2 has `tool_calls`, which is not read here: leave it out",
        ),
        (
            {"messages": [*turns("hi"), {"role": "assistant", "content": "no", "weight": 0}]},
            "messages: turn 2 has `weight`, which is not read here: leave it out",
        ),
        (
            {"messages": [*turns("hi"), {"role": "assistant", "content": "no", "train": False}]},
            "messages: turn 2 has `train`, which is not read here: leave it out",
        ),
        (
            {"messages": [*turns("hi"), {"role": "assistant", "content": "4", "reasoning_content": "2+2"}]},
            "messages: turn 2 has `reasoning_content`, which is not read here: leave it out",
        ),
        (
            {"messages": [{"role": "user", "content": "hi", "from": "human", "value": "ho"}]},
            "messages: turn 1 has both `role` and `content` and `from` and `value`, which differ: leave out one pair",
        ),
        ({"instruction": "i", "output": "gold", "response": "said"}, f"response: stands beside `output`{BESIDE}"),
        ({"instruction": "i", "output": "", "response": "said"}, f"response: stands beside `output`{BESIDE}"),
        ({"instruction": "i", "input": "x", "context": "c"}, f"context: stands beside `input`{BESIDE}"),
        ({"messages": TALK, "tools": [{"name": "add"}]}, f"tools: {UNREAD}"),
        ({"conversations": SHARED_TALK, "images": ["a.png"]}, f"images: {UNREAD}"),
        ({"question": "who?", "context": "Ada.", "answer": "Ada"}, f"context: {UNREAD}"),
        ({"prompt": "who?", "context": "Ada.", "completion": "Ada"}, f"context: {UNREAD}"),
        ({"messages": turns("hi") * 2}, f"messages: turn 2 is the user's, where the assistant's {ORDER}"),
        ({"messages": turns("hi", "hello")[1:]}, f"messages: turn 1 is the assistant's, where the user's {ORDER}"),
        ({"messages": [*turns("hi"), *TALK]}, f"messages: turn 2 is the system's, where the assistant's {ORDER}"),
        ({"messages": [TALK[0], *TALK]}, f"messages: turn 2 is the system's, where the user's {ORDER}"),
        ({"conversations": shared(("human", "hi"), ("gpt", ""))}, "conversations: turn 2 is empty"),
        (
            {"conversations": shared(("human", "hi"), ("observation", "42"))},
            "conversations: turn 2 is a tool's (`observation`); only those of system, user and assistant are read here",
        ),
        (
            {"conversations": SHARED_TALK, "system": "be brief"},
            "system: is there, but the conversation begins with a system message of its own",
        ),
        (
            {"conversations": shared(("gpt", "hi")), "system": "be brief"},
            f"conversations: turn 1 is the assistant's, where the user's {ORDER}",
        ),
        ({"instruction": " ", "output": "x"}, "instruction: is empty"),
        ({"instruction": "x", "output": ""}, "output: is empty"),
        ({"instruction": "x", "output": ["y"]}, "output: must be text, not ['y']"),
        ({"instruction": "x", "input": 3}, "input: must be text, not 3"),
        ({"instruction": None}, "instruction: must be text, not None"),
        (
            {"instruction": "x", "history": ["hi", "hello"]},
            "history: must be a list of pairs, instruction and output, not ['hi', 'hello']",
        ),
        ({"instruction": "x", "history": [["hi", ""]]}, "history: is empty"),
        ({"prompt": 1, "completion": "x"}, "prompt: must be text, not 1"),
        ({"prompt": "x", "completion": turns("y")}, "completion: must be text, not [{'role': 'user', 'content': 'y'}]"),
        ({"prompt": turns("x"), "completion": "y"}, "completion: must be a list of messages, not 'y'"),
        (
            {"prompt": turns("x"), "completion": turns("y")},
            f"completion: turn 2 is the user's, where the assistant's {ORDER}",
        ),
        ({"question": "", "answer": "x"}, "question: is empty"),
    ],
)
def test_messages_that_are_none(row: dict[str, Any], message: str) -> None:
    assert fault(row, "messages") == message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": TALK[:4]}, "messages: ends with the user's turn: there is no reply to it"),
        ({"messages": TALK[:1]}, "messages: ends with the system's turn: there is no reply to it"),
        ({"conversations": SHARED_TALK[:4]}, "conversations: ends with the user's turn: there is no reply to it"),
        (
            {"messages": '[{"role": "user"}]'},
            "messages: is text, so the user's turn alone: learned are lists of messages that end with a reply",
        ),
        ({"instruction": "x", "output": None}, "output: is empty: there is no reply to learn"),
        (
            {"prompt": "x", "chosen": "y", "rejected": "z"},
            "completion: is missing, so there is no reply to learn: there are `prompt`, `chosen`, `rejected`; say "
            "which one is the task's `reply` under `data.columns`",
        ),
        ({"prompt": TALK[:2], "completion": None}, "prompt: ends with the user's turn: there is no reply to it"),
    ],
)
def test_conversations_without_a_reply(row: dict[str, Any], message: str) -> None:
    assert fault(row, "reply") == message


# Documents and summaries


@pytest.mark.parametrize(
    ("row", "summary"),
    [
        ({"summary": "one"}, ["one"]),
        ({"summary": ["one", "two "]}, ["one", "two "]),
        ({"summary1": "one", "topic1": "x", "summary2": "two", "summary4": "four"}, ["one", "two"]),
        ({"summary": "own", "summary1": "one"}, ["own"]),
    ],
)
def test_summaries(row: dict[str, Any], summary: Any) -> None:
    assert taken(row, "summary") == summary


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"summary": " "}, "summary: is empty"),
        ({"summary": []}, "summary: is empty"),
        ({"summary": None}, "summary: must be text or a list of texts, not None"),
        ({"summary": ["one", 2]}, "summary: must be text or a list of texts, not 2"),
        ({"summary1": "one", "summary2": ""}, "summary2: is empty"),
    ],
)
def test_summaries_that_are_none(row: dict[str, Any], message: str) -> None:
    assert fault(row, "summary") == message


def test_documents() -> None:
    assert taken({"document": " as it is"}, "document") == " as it is"
    assert taken({"source": ["One. ", "", " Two."]}, "document", {"document": "source"}) == "One. Two."
    renamed = {"document": "source"}
    assert (
        fault({"source": ["a", 1]}, "document", renamed) == "source: must be text or a list of sentences, not ['a', 1]"
    )


# Columns


def test_a_column_without_forms_is_as_it_is() -> None:
    assert take_columns({"text": ["x"], "other": 1}, ("text",), {"label": "stars"}) == {"text": ["x"]}


def test_names_that_change_places() -> None:
    row = {"summary": "long", "document": "short"}
    renamed = {"summary": "document", "document": "summary"}
    assert take_columns(row, ("document", "summary"), renamed) == {"document": "long", "summary": ["short"]}
    assert fault({**row, "document": ""}, "summary", renamed) == "document: is empty"


@pytest.mark.parametrize(
    ("row", "column", "renamed", "told"),
    [
        (
            {"text": "x"},
            "messages",
            {},
            "has no column `messages`: there are `text`. Say which one is the task's `messages` under `data.columns`, "
            "or give `conversations`, or `instruction`, or `prompt`, or `question` in its place.",
        ),
        (
            {"context": "x", "answer": "y"},
            "answers",
            {},
            "has no column `answers`: there are `context`, `answer`. Did you mean `answer`? Say which one is the "
            "task's `answers` under `data.columns`, or give `answer_text` and `answer_start`, or `answer` and "
            "`answer_start`, or `human_ans_spans` and `human_ans_indices` in its place.",
        ),
        (
            {"text;summary": "x;y"},
            "summary",
            {},
            "has no column `summary`: there are `text;summary`. If that is more than one column, part the fields with "
            "commas in a .csv file, with tabs in a .tsv file. Did you mean `text;summary`? Say which one is the task's "
            "`summary` under `data.columns`, or give `summary1` in its place.",
        ),
        (
            # What the recipe names is not guessed at.
            {"summary": "x", "summary1": "y"},
            "summary",
            {"summary": "target"},
            "has no column `target`: there are `summary`, `summary1`. Say which one is the task's `summary` under "
            "`data.columns`.",
        ),
        (
            {"document": "x"},
            "document",
            {"document": "source"},
            "has no column `source`: there are `document`. Say which one is the task's `document` under "
            "`data.columns`.",
        ),
    ],
)
def test_a_missing_column(row: dict[str, Any], column: str, renamed: dict[str, str], told: str) -> None:
    with pytest.raises(NoColumn) as caught:
        taken(row, column, renamed)
    assert caught.value.help == told
    assert caught.value.message == "is missing"


def test_rows_are_numbered_and_counted(tmp_path: Path) -> None:
    lines = [{"question": "q", "answer": "a"}, {"question": "", "answer": "a"}, {"query": "q"}, {"prompt": "p"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    bad: list[BadRow] = []
    rows = list(mapped(read_rows(tmp_path / "a.jsonl"), {"messages": "messages"}, bad.append))
    assert [(row.origin, row.values["messages"]) for row in rows] == [
        ("a.jsonl:1", turns("q", "a")),
        ("a.jsonl:4", turns("p")),
    ]
    assert [str(each) for each in bad] == [
        "a.jsonl:2, column `question`: is empty",
        "a.jsonl:3, column `messages`: is missing",
    ]
    with pytest.raises(DataError, match=r"^a\.jsonl:3 has no column `messages`: there are `query`\."):
        list(mapped(list(read_rows(tmp_path / "a.jsonl"))[2:], {"messages": "messages"}, bad.append))
