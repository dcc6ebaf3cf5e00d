"""How an untrained base is asked for the answers of a task that writes them, or finds them in a passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pefttune.data import Example, Row
from pefttune.errors import BaseError
from pefttune.tasks import Encoder, QuestionAnswering, Task

if TYPE_CHECKING:
    from pefttune.inference import Session
    from pefttune.tasks.chat import Message

MOST_ANSWER_TOKENS = 32


def asked(session: Session, task: Task, max_length: int, rows: Sequence[Row]) -> list[Example]:
    """An example with its answer for each of the rows that have one. Raises BaseError for an encoder, which writes no
    answers, and DataError."""
    encoder = _encoder(session, task, max_length)
    return [example for row in rows if (example := encoder(row)[-1]).answers and example.answers[0]]


def _encoder(session: Session, task: Task, max_length: int) -> Encoder:
    if not session.causal:
        raise BaseError(
            f"an encoder, untrained, says nothing of the answers of {task.name}: probe it on a decoder (--bases), or "
            "train it on a few rows (data.max_train_samples=200) and see"
        )
    if not isinstance(task, QuestionAnswering):
        return session.encoder(task, max_length)
    from pefttune.tasks.answering import AnswerEncoder

    return AnswerEncoder(session.base.tokenizer, _question, None, max_length, MOST_ANSWER_TOKENS)


def _question(row: Row) -> tuple[list[Message], str | None]:
    texts = row.values["answers"]["text"]
    said = f"{row.values['context']}\n\n{row.values['question']}"
    return [{"role": "user", "content": said}], texts[0] if texts else None
