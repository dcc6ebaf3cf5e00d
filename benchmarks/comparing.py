"""Medians and ratios, and whether two runs may be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.errors import BenchmarkError
from benchmarks.job import Result

# Rounding in bfloat16 through 30 layers: on 64 SST-2 sentences a padded batch is 3.1 % from float32 (docs/LOG.md).
LOSS_TOLERANCE = 0.05


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is: the median of the paired ratios, and how far they spread."""

    median: float
    lowest: float
    highest: float


def ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Peer's seconds over ours, pair by pair."""
    pairs = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    return Ratio(median(pairs), min(pairs), max(pairs))


def seconds_per_step(result: Result, warmup: int) -> float:
    """Mean over the timed steps: their examples differ in length, so their sum is what two runs share."""
    timed = result.seconds[warmup:]
    return sum(timed) / len(timed)


def check_same_start(ours: Result, peer: Result) -> None:
    """Raise BenchmarkError unless both took the first step's loss of the same positions, with the same outcome."""
    if ours.labelled[0] != peer.labelled[0]:
        raise BenchmarkError(
            f"ours learns {ours.labelled[0]} positions in the first step, the peer {peer.labelled[0]}: no ratio is told"
        )
    mine, theirs = ours.losses[0], peer.losses[0]
    if not abs(mine - theirs) <= LOSS_TOLERANCE * abs(theirs):
        raise BenchmarkError(
            f"the first step's loss is that of the untouched base, but it is {mine:.4f} for ours and {theirs:.4f} for "
            "the peer: they do not compute the same, so no ratio is told"
        )
