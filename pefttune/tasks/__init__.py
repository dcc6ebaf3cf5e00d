"""Downstream tasks: rows to examples, loss, prediction, metrics. A new task is one file and one line of `TASKS`."""

from collections.abc import Callable
from typing import Any

from pefttune.tasks.protocol import Encoded, Encoder, Generation, Piece, Prediction, ScoredBatch, Task
from pefttune.tasks.question_answering import Answer, QuestionAnswering
from pefttune.tasks.text_classification import Classified, TextClassification

TASKS: dict[str, Callable[..., Task]] = {
    "question-answering": QuestionAnswering.from_section,
    "text-classification": TextClassification.from_section,
}


def get(section: Any) -> Task:
    """The task that a recipe's `task` section describes."""
    return TASKS[section.type](section)


__all__ = [
    "TASKS",
    "Answer",
    "Classified",
    "Encoded",
    "Encoder",
    "Generation",
    "Piece",
    "Prediction",
    "QuestionAnswering",
    "ScoredBatch",
    "Task",
    "TextClassification",
    "get",
]
