"""The frozen model's outputs as input features: its last hidden states of a text, pooled or token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from pefttune.data import UNKNOWN, Example, Row
from pefttune.errors import BaseError
from pefttune.inference.predicting import ROWS_AT_ONCE
from pefttune.inference.session import Session
from pefttune.tasks.prompt import HeadEncoder


@dataclass(frozen=True)
class Features:
    """What the model makes of a text, (n, D) in float32: one vector, or one for each of its `tokens`."""

    tokens: tuple[str, ...]
    vectors: Tensor
    truncated: bool


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda states_TD: states_TD.mean(0, keepdim=True),
    "first": lambda states_TD: states_TD[:1],
    "last": lambda states_TD: states_TD[-1:],
    "none": lambda states_TD: states_TD,
}
"""Of the states of all tokens, special ones included: their mean, that of the first or the last one, or each."""


def extract(session: Session, rows: Iterable[Row], pooling: str, max_length: int) -> Iterator[Features]:
    """The features of each row's `text` by the base itself, without any adapter; rows are streamed.

    Texts are cut at `max_length` tokens. Raises DataError when the base has no positions for so many, BaseError for an
    encoder-decoder, KeyError for a pooling that is not among `POOLINGS`.
    """
    pool, tokenizer = POOLINGS[pooling], session.base.tokenizer
    if session.base.model.config.is_encoder_decoder:
        raise BaseError(
            "this base is an encoder-decoder, whose states are not read as features: take a decoder or an encoder"
        )
    session.check_length(max_length, "--max-length")
    encoder = HeadEncoder(tokenizer, lambda row: (UNKNOWN,), max_length, causal=session.causal)
    rows = iter(rows)
    while chunk := [_all_marked(encoder(row)[0]) for row in islice(rows, ROWS_AT_ONCE)]:
        for example, states_TD in zip(chunk, session.hidden_states(chunk), strict=True):
            tokens = tuple(tokenizer.convert_ids_to_tokens(list(example.prompt)))
            yield Features(tokens, pool(states_TD), example.truncated)


def _all_marked(example: Example) -> Example:
    return replace(example, marks=tuple((position, UNKNOWN) for position in range(len(example.prompt))))
