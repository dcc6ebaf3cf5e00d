"""Rows as the base reads them, token by token: what is only read, and what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pefttune.data import Example
from pefttune.doctor.answers import trained_answer, trained_marks
from pefttune.doctor.case import Case

SHOWN_ROWS = 3
CONTEXT = 4  # tokens that are decoded with a token, for what it is depends on those before it


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token: `read`; `trained`, one of the answer; or `mark`, read by the head, which learns `label` there."""

    text: str
    role: Literal["read", "trained", "mark"]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """One example, and the row it is of."""

    origin: str
    tokens: tuple[ShownToken, ...]


def show(case: Case) -> tuple[Shown, ...]:
    """The first few training examples, of different answers where there are."""
    labelled = [each for each in case.train if trained_answer(each) or trained_marks(each)]
    first_of_each = {each.target: each for each in reversed(labelled)}
    chosen = [each for each in labelled if first_of_each[each.target] is each]
    others = [each for each in labelled if first_of_each[each.target] is not each]
    return tuple(Shown(each.origin, tuple(_tokens(case, each))) for each in [*chosen, *others][:SHOWN_ROWS])


def _tokens(case: Case, example: Example) -> Iterator[ShownToken]:
    marks, read = trained_marks(example), len(example.prompt)
    for index, text in enumerate(texts_of(case.tokenizer, [*example.prompt, *trained_answer(example)])):
        if index in marks:
            yield ShownToken(text, "mark", case.task.target_name(marks[index]))
        else:
            yield ShownToken(text, "read" if index < read else "trained")


def texts_of(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """What each token adds to the text; nothing for one that ends inside a character, which the last one shows."""
    start = 0
    for end in range(1, len(ids) + 1):
        context = ids[max(0, start - CONTEXT) : start]
        before, text = (
            tokenizer.decode(part, clean_up_tokenization_spaces=False)
            for part in (context, [*context, *ids[start:end]])
        )
        if text.endswith("\ufffd") and end < len(ids):
            yield ""
            continue
        yield text.removeprefix(before)
        start = end
