"""The `task` section of a recipe: one class for each task, chosen by `type`. Rules are those of `schema.py`."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pefttune.recipe.types import Labels, Section, Whole

Attention = Annotated[
    Literal["causal", "bidirectional"],
    Field(
        description="What a decoder's tokens see. `causal`: what stands before them, as the base was trained, so the "
        "text is read twice. `bidirectional`: the whole text, which is read once. On an encoder, whose tokens see the "
        "whole text anyway, it changes nothing."
    ),
]


class TextClassification(Section):
    """Sentiment, topic, intent, spam: one label for a text."""

    type: Literal["text-classification"] = Field(description="The task, by the Hub's pipeline tag.")
    approach: Literal["label-words", "head"] = Field(
        "label-words",
        description="`label-words`: the language model answers with the label's words and the likeliest answer wins. "
        "`head`: a new linear layer on the last token's hidden state.",
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] = Field(
        "single_label_classification",
        description="One label for a text; any number of labels (a list, or words joined by commas); or a number to "
        "predict. The last two need `approach: head`. Names are transformers'.",
    )
    labels: Labels | None = Field(
        None,
        description="The labels, in order. By default those of the training rows, sorted.",
        examples=[["negative", "positive"]],
    )
    instruction: str = Field(
        "Classify the text. Answer with one of: {labels}.",
        description="System message for `label-words`; `{labels}` stands for the labels joined by commas.",
        examples=["Did the writer like the film? Answer with one of {labels}."],
    )

    @property
    def has_head(self) -> bool:
        """Whether an output layer is trained for it."""
        return self.approach == "head"

    @field_validator("problem_type")
    @classmethod
    def _needs_a_head(cls, problem_type: str, info: ValidationInfo) -> str:
        if problem_type != "single_label_classification" and info.data.get("approach") == "label-words":
            raise ValueError(f"{problem_type} needs `approach: head`: one word cannot say it")
        return problem_type

    @field_validator("labels")
    @classmethod
    def _at_least_two(cls, labels: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if labels is not None and info.data.get("problem_type") == "regression":
            raise ValueError("regression predicts a number and has no labels: leave them out")
        if labels is not None and len(labels) < 2:
            raise ValueError(f"needs at least two labels; {labels[0]!r} alone leaves nothing to learn")
        return labels

    @field_validator("instruction")
    @classmethod
    def _known_placeholders(cls, instruction: str) -> str:
        for name in re.findall(r"{([^{}]*)}", instruction):
            if name != "labels":
                raise ValueError(f"unknown placeholder '{{{name}}}'; only '{{labels}}' is filled in")
        return instruction


class TokenClassification(Section):
    """Named entities and other labelled spans: a tag for each word."""

    has_head: ClassVar[bool] = True
    type: Literal["token-classification"] = Field(description="The task, by the Hub's pipeline tag.")
    labels: Labels | None = Field(
        None,
        description="The kinds of entities, in order. By default those of the training rows, sorted.",
        examples=[["PER", "LOC", "ORG"]],
    )
    attention: Attention = "causal"
    stride: Whole = Field(
        64,
        ge=0,
        description="Overlap of the windows into which a text longer than `data.max_length` is cut.",
        json_schema_extra={"unit": "tokens"},
    )


class QuestionAnswering(Section):
    """Extractive question answering: the span of a passage that answers a question, or that none does."""

    has_head: ClassVar[bool] = True
    type: Literal["question-answering"] = Field(description="The task, by the Hub's pipeline tag.")
    attention: Attention = "causal"
    stride: Whole = Field(
        128,
        ge=0,
        description="Overlap of the windows into which a passage longer than `data.max_length` is cut.",
        json_schema_extra={"unit": "tokens"},
    )
    max_answer_length: Whole = Field(
        30, gt=0, description="Longest answer that is looked for.", json_schema_extra={"unit": "tokens"}
    )


class Summarization(Section):
    """A short text for a long one, written by the language model."""

    has_head: ClassVar[bool] = False
    type: Literal["summarization"] = Field(description="The task, by the Hub's pipeline tag.")
    instruction: str | None = Field(
        "Summarize the text.",
        description="System message; for an encoder-decoder what stands before the text, such as T5's `summarize:`. "
        "`null` for none, as BART, Pegasus and Marian expect it.",
        examples=["summarize:"],
    )
    max_new_tokens: Whole = Field(
        64, gt=0, description="Longest summary, training ones included.", json_schema_extra={"unit": "tokens"}
    )
    min_new_tokens: Whole = Field(
        0, ge=0, description="Shortest summary that is written.", json_schema_extra={"unit": "tokens"}
    )
    num_beams: Whole = Field(
        1, gt=0, description="Beams of the search; 1 is greedy.", json_schema_extra={"unit": "beams"}
    )


class TextGeneration(Section):
    """Instruction following and chat: loss on the assistant's turns only."""

    has_head: ClassVar[bool] = False
    type: Literal["text-generation"] = Field(description="The task, by the Hub's pipeline tag.")
    system: str | None = Field(
        None,
        description="System message for conversations that have none; for an encoder-decoder what stands before the "
        "text.",
        examples=["You are a terse assistant."],
    )
    max_new_tokens: Whole = Field(
        256, gt=0, description="Longest answer that is written.", json_schema_extra={"unit": "tokens"}
    )
    num_beams: Whole = Field(
        1, gt=0, description="Beams of the search; 1 is greedy.", json_schema_extra={"unit": "beams"}
    )
    answer_after: str | None = Field(
        None,
        description="What stands before the answer proper, which is compared exactly, as `####` in GSM8K. By default "
        "the whole text is the answer.",
        examples=["####"],
    )


TaskSection = Annotated[
    TextClassification | TokenClassification | QuestionAnswering | Summarization | TextGeneration,
    Field(discriminator="type"),
]
