"""Several LoRA adapters of the same layers become one, layer by layer, from what each adds to a weight: its update.

`linear` is exact: the ranks of all, side by side, are the weighted sum of the updates. Every other way gives a matrix
of any rank, which a singular value decomposition brings to rank r. Shapes: O and I the widths of a layer's output and
input, r a rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.utils import merge_utils
from torch import Tensor
from torch.nn.functional import pad

from pefttune.errors import AdapterError

Update = tuple[Tensor, Tensor, float]
"""A (r, I), B (O, r) and the factor of their product."""
OVERSAMPLING, POWER_ITERATIONS = 8, 4  # of the random projection (arXiv:0909.4061), exact where the rank is not over r


@dataclass(frozen=True)
class Merged:
    """A (r, I) and B (O, r) of each layer, whose product is the merged update, and which share of its sum of squares is
    left of it at that rank."""

    factors: dict[str, tuple[Tensor, Tensor]]
    kept: float


@torch.no_grad()
def merge(
    parents: Sequence[Mapping[str, Update]], weights: Sequence[float], how: str, r: int, density: float, seed: int
) -> Merged:
    """One update of rank `r` for each layer, float32 on the CPU. `parents` have the same layers.

    `how` is `linear`, which needs the ranks of all parents together, or one of `WAYS`. Raises AdapterError where
    nothing is left of the updates.
    """
    if how == "linear":
        return Merged({name: _side_by_side([one[name] for one in parents], weights, r) for name in parents[0]}, 1.0)
    factors, total, lost = {}, 0.0, 0.0
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The density")  # where it is 1, nothing is pruned, as asked for
        torch.manual_seed(seed)
        for name in sorted(parents[0]):
            updates_OI = [_whole(*one[name]) for one in parents]
            merged_OI = WAYS[how](updates_OI, torch.tensor(weights, dtype=torch.float32), density)
            a, b = factors[name] = _low_rank(merged_OI, r)
            total += float(merged_OI.square().sum())
            lost += float((merged_OI - b @ a).square().sum())
    if not total:
        raise AdapterError(f"nothing is left of the updates, merged by {how} with a density of {density:g}: take more")
    return Merged(factors, 1 - lost / total)


WAYS: dict[str, Callable[[list[Tensor], Tensor, float], Tensor]] = {
    "svd": lambda updates_OI, weights, density: merge_utils.task_arithmetic(updates_OI, weights),
    "ties": lambda updates_OI, weights, density: merge_utils.ties(updates_OI, weights * len(weights), density),
    "dare_linear": merge_utils.dare_linear,
    "dare_ties": lambda updates_OI, weights, density: merge_utils.dare_ties(
        updates_OI, weights * len(weights), density
    ),
    "magnitude_prune": merge_utils.magnitude_prune,
}
"""What becomes of whole updates (O, I), each with its weight, and the share of numbers that pruning leaves.

PEFT divides by how many parents agree on a sign (TIES, arXiv:2306.01708); here weights are shares, so that those of
1 / n give the mean of the parents that agree, and the sum of all weights is TIES's factor λ.
"""


def _side_by_side(updates: Sequence[Update], weights: Sequence[float], r: int) -> tuple[Tensor, Tensor]:
    a = torch.cat([a.float().cpu() for a, _, _ in updates])
    b = torch.cat([weight * scale * b.float().cpu() for (_, b, scale), weight in zip(updates, weights, strict=True)], 1)
    return _padded(a, b, r)


def _whole(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return scale * (b.float().cpu() @ a.float().cpu())


def _low_rank(update_OI: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The nearest product of rank r, its singular values shared between both factors."""
    q = min(r + OVERSAMPLING, *update_OI.shape)
    u, s, v = torch.svd_lowrank(update_OI, q, POWER_ITERATIONS)
    root = s[:r].sqrt()
    return _padded((v[:, :r] * root).t(), u[:, :r] * root, r)


def _padded(a: Tensor, b: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """With zeros, for a layer that needs less than rank r."""
    return pad(a, (0, 0, 0, r - len(a))).contiguous(), pad(b, (0, r - b.shape[1])).contiguous()
