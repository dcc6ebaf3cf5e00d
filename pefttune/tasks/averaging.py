"""Means over what several adapters say of one example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean; weights sum to 1."""
    import torch

    shares = torch.tensor(weights, dtype=scores[0].dtype).view(-1, *[1] * scores[0].dim())
    return (torch.stack(list(scores)) * shares).sum(0)


def mean_of_logs(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The logarithm of the weighted mean of probabilities whose logarithms are given."""
    import torch

    shares = torch.tensor(weights, dtype=scores[0].dtype).log().view(-1, *[1] * scores[0].dim())
    return torch.logsumexp(torch.stack(list(scores)) + shares, 0)
