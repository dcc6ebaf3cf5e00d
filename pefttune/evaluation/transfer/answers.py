"""Written answers, which have no classes: how likely the base, untrained, finds each, given its prompt or another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from pefttune.data import Example
from pefttune.evaluation.transfer.report import AnswerScores
from pefttune.inference import answer_log_likelihoods

if TYPE_CHECKING:
    from pefttune.inference import Session


def score_answers(
    session: Session, examples: Sequence[Example], progress: Callable[[int], None] = lambda done: None
) -> AnswerScores:
    """Each example's answer behind its own prompt, beside the next example's. There are two examples at least, each
    with one answer."""
    neighbours = [*examples[1:], examples[0]]
    asked = [
        replace(own, answers=(own.answers[0], other.answers[0]), target=0, marks=())
        for own, other in zip(examples, neighbours, strict=True)
    ]
    found = answer_log_likelihoods(session, asked, progress)
    own, others = ([pair[side] for pair in found] for side in (0, 1))
    means_own, means_others = (np.array([float(each.mean()) for each in side]) for side in (own, others))
    likelier = int((means_own > means_others).sum())
    decode = session.base.tokenizer.decode
    size = sum(len(decode(each.answers[0], skip_special_tokens=True).encode()) for each in examples)
    nats = -sum(float(each.sum()) for each in own)
    return AnswerScores(
        own=-nats / sum(map(len, own)),
        others=float(np.concatenate([each.numpy() for each in others]).mean()),
        matched=likelier / len(examples),
        p=float(binomtest(likelier, len(examples), alternative="greater").pvalue),
        bits_per_byte=nats / log(2) / max(size, 1),
    )
