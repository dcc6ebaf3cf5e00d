"""How far texts are from what a language model knows: its loss on them, beside the same tokens in random order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pefttune.data import Example
from pefttune.evaluation.transfer.report import TextLoss
from pefttune.inference import answer_log_likelihoods
from pefttune.tasks.prompt import special_tokens_around, text_tokens

if TYPE_CHECKING:
    from pefttune.inference import Session

MOST_TEXTS, MOST_TOKENS = 24, 64


def text_loss(session: Session, texts: Sequence[str], seed: int) -> TextLoss | None:
    """Loss a token on the first texts, whole and shuffled; None for an encoder, which says no likelihoods, or where no
    text has two tokens."""
    if not session.causal or session.base.model.config.is_encoder_decoder:
        return None
    before, _ = special_tokens_around(session.base.tokenizer)
    split = [text_tokens(session.base.tokenizer, text)[:MOST_TOKENS] for text in texts[:MOST_TEXTS]]
    tokens = [each for each in split if len(each) > 1]
    if not tokens:
        return None
    rng = random.Random(seed)
    shuffled = [tuple(rng.sample(each, len(each))) for each in tokens]
    real, mixed = (_loss(session, [_example(before, each) for each in form]) for form in (tokens, shuffled))
    return TextLoss(real, mixed, len(tokens))


def _example(before: tuple[int, ...], tokens: tuple[int, ...]) -> Example:
    """The text to be foretold behind its first token, which stands for the begin of text where there is no such."""
    read, foretold = (before, tokens) if before else (tokens[:1], tokens[1:])
    return Example(read, (foretold,), 0, "")


def _loss(session: Session, examples: Sequence[Example]) -> float:
    found = [each[0] for each in answer_log_likelihoods(session, examples)]
    return -sum(float(each.sum()) for each in found) / sum(map(len, found))
