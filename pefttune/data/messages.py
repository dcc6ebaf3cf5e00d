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
_UNREAD = ("tool_calls", "function_call", "weight")  # what would change the training if it were read


def from_messages(row: _Values) -> Messages:
    """OpenAI's form, `role` and `content`, or ShareGPT's, `from` and `value`; a text is one turn of the user."""
    if isinstance(row["messages"], str):
        return [{"role": "user", "content": _text(row["messages"], "messages")}]
    return _ordered(_turns(row, "messages"), "messages")


def from_conversations(row: _Values) -> Messages:
    """ShareGPT's column, with a `system` column where there is one."""
    system, messages = _system(row), _ordered(_turns(row, "conversations"), "conversations")
    if system and messages[0]["role"] == "system":
        raise RowFault("system", "is there, but the conversation begins with a system message of its own")
    return system + messages


def from_instruction(row: _Values) -> Messages:
    """Alpaca's columns: `input` follows the instruction on a new line; `history` holds pairs of earlier turns."""
    asked = _text(row["instruction"], "instruction")
    if row.get("input"):
        asked += f"\n{_text(row['input'], 'input')}"
    return [*_system(row), *_history(row), {"role": "user", "content": asked}, *_reply(row, "output")]


def from_prompt(row: _Values) -> Messages:
    """TRL's `prompt` and `completion`: both text, or both lists of messages."""
    if not isinstance(row["prompt"], list):
        return [{"role": "user", "content": _text(row["prompt"], "prompt")}, *_reply(row, "completion")]
    asked = _ordered(_turns(row, "prompt"), "prompt")
    return asked if row.get("completion") is None else _ordered(asked + _turns(row, "completion"), "completion")


def from_question(row: _Values) -> Messages:
    """`question` and `answer`, as GSM8K has them."""
    return [{"role": "user", "content": _text(row["question"], "question")}, *_reply(row, "answer")]


def reply(row: _Values, form: Callable[[_Values], Messages]) -> str:
    """What the assistant says last in the conversation that `form` reads."""
    last = form(row)[-1]
    if last["role"] != "assistant":
        raise RowFault("messages", "ends with the user's turn: there is no reply to it")
    return last["content"]


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
    pairs = [("role", "content"), ("from", "value")]
    found = [pair for pair in pairs if isinstance(message, Mapping) and message.keys() >= set(pair)]
    if not found:
        raise RowFault(
            column, f"{turn} must have `role` and `content`, or `from` and `value`, not {shortened(message)}"
        )
    role, content = (message[key] for key in found[0])
    for key in _UNREAD:
        if message.get(key) not in (None, [], 1):
            raise RowFault(column, f"{turn} has `{key}`, which is not read here: leave it out")
    if role in _TOOLS:
        raise RowFault(column, f"{turn} is a tool's (`{role}`); only those of system, user and assistant are read here")
    if not isinstance(role, str) or role not in _ROLES:
        raise RowFault(column, f"{turn} has the role {role!r}, which is none of {listed(_ROLES)}")
    text = _joined(content)
    if text is None:
        raise RowFault(column, f"{turn} must be text, or a list of parts of text, not {shortened(content)}")
    if is_blank(text):
        raise RowFault(column, f"{turn} is empty")
    return {"role": _ROLES[role], "content": text}


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
