"""Rows to examples, and what is told of them: texts that are too long, batches that cannot be ragged."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from pefttune import tasks
from pefttune.data import UNKNOWN, Example, Row
from pefttune.errors import DataError
from pefttune.pipeline.telling import first_of, tell
from pefttune.recipe import Recipe

if TYPE_CHECKING:
    from pefttune.inference import Session
    from pefttune.training import Notify


SHORT = {"data.max_length": "do not fit", "task.max_new_tokens": "have an answer longer than"}
"""The limits of a recipe, and what is said of rows that are cut by them."""


def encode(
    recipe: Recipe, encoder: tasks.Encoder, rows: Sequence[Row], what: str, notify: Notify
) -> list[tasks.Encoded]:
    """The examples of each row. Texts and answers that do not fit their limit are counted and told, or a DataError if
    so asked."""
    encoded = [encoder(row) for row in rows]
    dropped = recipe.data.too_long == "drop" and what == "training"
    for limit, those in _cut(encoded).items():
        told = f"{len(those)} of {len(rows)} {what} rows {SHORT[limit]} {limit} = {attrgetter(limit)(recipe)} tokens"
        if recipe.data.too_long == "error":
            raise DataError(f"{told}: {first_of(those)}. Raise the limit, or set data.too_long to truncate or drop")
        lost = "are dropped" if dropped else "lose their end"
        tell(notify, f"{told}; they {lost}: {first_of(those)}. A higher limit keeps them whole")
        if dropped and len(those) == len(rows):
            raise DataError(f"{told}, so none is left to train on. Raise the limit, or set data.too_long to truncate")
    return [each for each in encoded if not (dropped and _cut([each]))]


def _cut(encoded: Sequence[tasks.Encoded]) -> dict[str, list[str]]:
    """The key of each limit that cuts something, and the origins of the rows."""
    result: dict[str, list[str]] = {}
    for row in encoded:
        limits = [each.answer_limit for each in row] + ["data.max_length" for each in row if each.truncated]
        for limit in sorted({*limits} - {""}):
            result.setdefault(limit, []).append(row[0].origin)
    return result


def teaches(example: Example) -> bool:
    """Whether anything of it is known to learn from: in some windows of a long text nothing is."""
    return bool(example.answers) or any(target != UNKNOWN for _, target in example.marks)


def flat(encoded: Sequence[tasks.Encoded]) -> list[Example]:
    """The examples of all rows."""
    return [example for each in encoded for example in each]


def try_ragged(session: Session, examples: Sequence[Example], notify: Notify) -> None:
    """Find out whether batches of these examples can be ragged, and say so if not."""
    reason = session.collator.try_ragged(examples)
    if reason is not None:
        tell(notify, f"this base reads padded batches, which are slower: ragged, {reason}")


def tell_long(session: Session, train: Sequence[Example], notify: Notify) -> None:
    """Name the rows that do not fit into a batch."""
    from pefttune.batching import n_fed

    long = [example.origin for example in train if n_fed(example, every_answer=False) > session.max_batch_tokens]
    if long:
        told = f"{len(long)} of {len(train)} training rows are longer than a batch of {session.max_batch_tokens} tokens"
        tell(notify, f"{told} and get one of their own: {first_of(long)}")
