"""Which token comes next: the likeliest, or one drawn by chance. Shapes: B answers that are being written, V tokens of
the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from pefttune.errors import InputError
from pefttune.inference.answer import Answer


@dataclass(frozen=True, slots=True)
class Sampling:
    """Chance in what is written: tokens are drawn from the likeliest that together have the probability `top_p`.
    Raises InputError for values that none can be drawn by."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"Sampling: temperature must be a number above 0, not {self.temperature}; for the likeliest token each "
                "time leave the sampling out"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"Sampling: top_p must be above 0 and at most 1, not {self.top_p}")
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise InputError(f"Sampling: seed must be a whole number, 0 or more, not {self.seed}")

    def of_group(self, number: int) -> Sampling:
        """The chance of one of several groups that are written one after another: each draws other numbers."""
        (seed,) = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64).tolist()
        return replace(self, seed=seed)


Choose = Callable[[Tensor, Sequence[Answer]], tuple[Tensor, Tensor]]


def chooser(
    sampling: Sampling | None, ends: frozenset[int], device: torch.device, never: frozenset[int] = frozenset()
) -> Choose:
    """Picks from logits (B, V) a token for each answer, with its log-likelihood; ids that are `never` to be picked may
    lie behind V."""
    ends_E = torch.tensor(sorted(ends), device=device)
    chance = torch.Generator(device).manual_seed(sampling.seed) if sampling else None

    def choose(logits_BV: Tensor, answers: Sequence[Answer]) -> tuple[Tensor, Tensor]:
        log_chances_BV = logits_BV.log_softmax(-1)
        allowed_BV = logits_BV
        if inside := [own for own in never if own < logits_BV.shape[-1]]:
            allowed_BV = logits_BV.index_fill(-1, torch.tensor(inside, device=device), float("-inf"))
        if too_short := [i for i, answer in enumerate(answers) if not answer.may_end]:
            allowed_BV = allowed_BV.clone()
            allowed_BV[torch.tensor(too_short, device=device)[:, None], ends_E] = float("-inf")
        if sampling is None:
            tokens_B = allowed_BV.argmax(-1)
        else:
            warped_BV = TemperatureLogitsWarper(sampling.temperature)(None, allowed_BV)
            warped_BV = TopPLogitsWarper(sampling.top_p)(None, warped_BV)
            tokens_B = torch.multinomial(warped_BV.softmax(-1), 1, generator=chance)[:, 0]
        return tokens_B, log_chances_BV.gather(1, tokens_B[:, None])[:, 0]

    return choose
