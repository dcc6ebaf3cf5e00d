"""Downstream tasks: rows to examples, loss, prediction, metrics. A new task is one file and one line of `TASKS`."""

from collections.abc import Callable
from typing import Any

from pefttune.tasks.multi_label import MultiLabel
from pefttune.tasks.pairs import PairEncoder, encoder_of
from pefttune.tasks.protocol import Encoded, Encoder, Generation, Piece, Prediction, ScoredBatch, Task, Writing
from pefttune.tasks.question_answering import Answer, QuestionAnswering
from pefttune.tasks.summarization import Summarization
from pefttune.tasks.text_classification import Classified, TextClassification
from pefttune.tasks.text_generation import TextGeneration
from pefttune.tasks.text_regression import TextRegression
from pefttune.tasks.token_classification import Entity, Tagged, TokenClassification
from pefttune.tasks.vocabulary import Vocabularies, Vocabulary, vocabulary_of
from pefttune.tasks.written import Written

CLASSIFIERS: dict[str, Callable[[Any], Task]] = {
    "single_label_classification": TextClassification.from_section,
    "multi_label_classification": MultiLabel.from_section,
    "regression": lambda section: TextRegression(),
}
TASKS: dict[str, Callable[[Any], Task]] = {
    "question-answering": QuestionAnswering.from_section,
    "summarization": Summarization.from_section,
    "text-classification": lambda section: CLASSIFIERS[section.problem_type](section),
    "text-generation": TextGeneration.from_section,
    "token-classification": TokenClassification.from_section,
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
    "Entity",
    "Generation",
    "PairEncoder",
    "Piece",
    "Prediction",
    "QuestionAnswering",
    "ScoredBatch",
    "Summarization",
    "Tagged",
    "Task",
    "TextClassification",
    "TextGeneration",
    "TokenClassification",
    "Vocabularies",
    "Vocabulary",
    "Writing",
    "Written",
    "encoder_of",
    "get",
    "vocabulary_of",
]
