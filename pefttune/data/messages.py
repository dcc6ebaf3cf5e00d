"""Conversations: `[{"role": "system" | "user" | "assistant", "content": text}, …]`, from the forms that data sets have.

At most one system message, the first; then user and assistant take turns. A conversation may end with the user's turn:
whether that will do is for the task to say. Every function raises RowFault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pefttune.data.faults import RowFault
from pefttune.data.hints import listed, shortened
from pefttune.data.text import is_blank

Messages = list[dict[str, str]]
_Values = Mapping[str, Any]

_ROLES = {name: name for name in ("system", "user", "assistant")} | {"human": "user", "gpt": "assistant"}
_TOOLS = ("tool", "function", "function_call", "observation", "ipython")
_PAIRS = [("role", "content"), ("from", "value")]
# What would change the training if it were read, of a turn and of a row.
_UNREAD = ("tool_calls", "function_call", "weight", "train", "loss", "reasoning_content", "thinking", "images", "tools")
_UNREAD_COLUMNS = ("tools", "images")
_REPLIES = {"instruction": "output", "prompt": "completion", "question": "answer"}
"""The column that holds the reply, by the one that holds what the user says."""


def from_messages(row: _Values) -> Messages:
    """OpenAI's form, `role` and `content`, or ShareGPT's, `from` and `value`; a text is one turn of the user."""
    _refuse_unread(row)
    if isinstance(row["messages"], str):
        return [{"role": "user", "content": _text(row["messages"], "messages")}]
    return _ordered(_turns(row, "messages"), "messages")


def from_conversations(row: _Values) -> Messages:
    """ShareGPT's column, with a `system` column where there is one."""
    _refuse_unread(row)
    system, messages = _system(row), _ordered(_turns(row, "conversations"), "conversations")
    if system and messages[0]["role"] == "system":
        raise RowFault("system", "is there, but the conversation begins with a system message of its own")
    return system + messages


def from_instruction(row: _Values) -> Messages:
    """Alpaca's columns: `input` follows the instruction on a new line; `history` holds pairs of earlier turns. Dolly
    calls the input `context` and the output `response`."""
    _refuse_unread(row)
    asked = _text(row["instruction"], "instruction")
    given = _either(row, "input", "context")
    if row.get(given):
        asked += f"\n{_text(row[given], given)}"
    replied = _reply(row, _either(row, "output", "response"))
    return [*_system(row), *_history(row), {"role": "user", "content": asked}, *replied]


def from_prompt(row: _Values) -> Messages:
    """TRL's `prompt` and `completion`: both text, or both lists of messages."""
    _refuse_unread(row, "context")
    if not isinstance(row["prompt"], list):
        return [{"role": "user", "content": _text(row["prompt"], "prompt")}, *_reply(row, "completion")]
    asked = _ordered(_turns(row, "prompt"), "prompt")
    return asked if row.get("completion") is None else _ordered(asked + _turns(row, "completion"), "completion")


def from_question(row: _Values) -> Messages:
    """`question` and `answer`, as GSM8K has them."""
    _refuse_unread(row, "context")
    return [{"role": "user", "content": _text(row["question"], "question")}, *_reply(row, "answer")]


def reply(row: _Values, column: str, form: Callable[[_Values], Messages]) -> str:
    """What the assistant says last in the conversation that `form` reads out of `column` and others."""
    last = form(row)[-1]
    if last["role"] == "assistant":
        return last["content"]
    own = _REPLIES.get(column)
    if own is None and isinstance(row[column], str):
        raise RowFault(column, "is text, so the user's turn alone: learned are lists of messages that end with a reply")
    if own is None or isinstance(row[column], list):
        raise RowFault(column, f"ends with the {last['role']}'s turn: there is no reply to it")
    if own in row:
        raise RowFault(own, "is empty: there is no reply to learn")
    there = f"there are {listed(row)}; say which one is the task's `reply` under `data.columns`"
    raise RowFault(own, f"is missing, so there is no reply to learn: {there}")


def _refuse_unread(row: _Values, *more: str) -> None:
    for column in (*_UNREAD_COLUMNS, *more):
        if row.get(column) not in (None, [], "", "[]"):
            raise RowFault(
                column, "is not read here, and would change the training: write it into a turn, or leave the column out"
            )


def _either(row: _Values, first: str, second: str) -> str:
    """The column, of two that say the same in two forms, that the row has."""
    if row.get(first) is None:
        return second if row.get(second) or first not in row else first
    if row.get(second) not in (None, "", row[first]):
        raise RowFault(second, f"stands beside `{first}`, in whose place it is read: leave out one of the two columns")
    return first


def _system(row: _Values) -> Messages:
    return [{"role": "system", "content": _text(row["system"], "system")}] if row.get("system") else []


def _reply(row: _Values, column: str) -> Messages:
    """The assistant's turn: none where its column is not there or null, as in rows to be answered."""
    return [] if row.get(column) is None else [{"role": "assistant", "content": _text(row[column], column)}]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowFault(column, f"must be text, not {shortened(value)}")
    if is_blank(value):
        raise RowFault(column, "is empty")
    return value


def _history(row: _Values) -> Messages:
    history = row.get("history") or []
    if not isinstance(history, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in history):
        raise RowFault("history", f"must be a list of pairs, instruction and output, not {shortened(history)}")
    return [
        {"role": role, "content": _text(text, "history")}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _turns(row: _Values, column: str) -> Messages:
    value = row[column]
    if not isinstance(value, list) or not value:
        raise RowFault(column, f"must be a list of messages, not {shortened(value)}")
    return [_turn(message, column, f"turn {number}") for number, message in enumerate(value, 1)]


def _turn(message: Any, column: str, turn: str) -> dict[str, str]:
    role, content = _said(message, column, turn)
    for key in _UNREAD:
        if message.get(key) not in (None, [], "", 1):
            raise RowFault(column, f"{turn} has `{key}`, which is not read here: leave it out")
    if role in _TOOLS:
        raise RowFault(column, f"{turn} is a tool's (`{role}`); only those of system, user and assistant are read here")
    if role not in _ROLES.values():
        raise RowFault(column, f"{turn} has the role {role!r}, which is none of {listed(_ROLES)}")
    text = _joined(content)
    if text is None:
        raise RowFault(column, f"{turn} must be text, or a list of parts of text, not {shortened(content)}")
    if is_blank(text):
        raise RowFault(column, f"{turn} is empty")
    return {"role": role, "content": text}


def _said(message: Any, column: str, turn: str) -> tuple[Any, Any]:
    """A turn's role, by the name that it has here if it has one, and its content."""
    keys = [pair for pair in _PAIRS if isinstance(message, Mapping) and message.keys() >= set(pair)]
    if len(keys) > 1:  # where rows of both kinds are in one file, the other pair of each is null
        keys = [pair for pair in keys if message[pair[0]] is not None]
    if not keys:
        raise RowFault(
            column, f"{turn} must have `role` and `content`, or `from` and `value`, not {shortened(message)}"
        )
    said, *others = ((_ROLES.get(str(message[role]), message[role]), message[text]) for role, text in keys)
    if others not in ([], [said]):
        raise RowFault(
            column, f"{turn} has both `role` and `content` and `from` and `value`, which differ: leave out one pair"
        )
    return said


def _joined(content: Any) -> str | None:
    """The text of a message's content, the parts of it put together; None where it is something else."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts: list[Any] = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
    ]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def _ordered(messages: Messages, column: str) -> Messages:
    before = "system"
    for number, role in enumerate((message["role"] for message in messages), 1):
        expected = "user" if before in ("system", "assistant") else "assistant"
        if role != expected and not (role == "system" and number == 1):
            raise RowFault(
                column,
                f"turn {number} is the {role}'s, where the {expected}'s should be: after a system message at most, "
                "user and assistant take turns",
            )
        before = role
    return messages
