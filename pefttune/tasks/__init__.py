"""Downstream tasks: rows to examples, loss, prediction, metrics. A new task is one file and one line of `TASKS`."""

from collections.abc import Callable
from typing import Any

from pefttune.tasks.protocol import Encoded, Encoder, Generation, Piece, Prediction, ScoredBatch, Task
from pefttune.tasks.text_classification import Classified, TextClassification
from pefttune.tasks.token_classification import Entity, Tagged, TokenClassification

TASKS: dict[str, Callable[..., Task]] = {
    "text-classification": TextClassification.from_section,
    "token-classification": TokenClassification.from_section,
}


def get(section: Any) -> Task:
    """The task that a recipe's `task` section describes."""
    return TASKS[section.type](section)


__all__ = [
    "TASKS",
    "Classified",
    "Encoded",
    "Encoder",
    "Entity",
    "Generation",
    "Piece",
    "Prediction",
    "ScoredBatch",
    "Tagged",
    "Task",
    "TextClassification",
    "TokenClassification",
    "get",
]
