"""Which examples go together: seeded, of like length, in optimizer steps of the size the recipe asks for."""

from __future__ import annotations

import random
from collections.abc import Sequence

# Examples of like length are sought among so many optimizer steps: enough to halve padding, few enough to stay random.
STEPS_SORTED_TOGETHER = 8


def training_steps(
    lengths: Sequence[int], batch_size: int, accumulation: int, seed: tuple[int, int]
) -> list[list[list[int]]]:
    """One epoch: optimizer steps, each a list of micro-batches, each a list of indices into `lengths`.

    `seed` is the recipe's and the number of the epoch. Every index comes once. Examples are shuffled, then sorted by
    length within groups of a few steps, and the order of the steps shuffled again, so the last, smaller step may come
    anywhere.
    """
    rng = random.Random(f"{seed[0]}:{seed[1]}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    per_step = batch_size * accumulation
    steps: list[list[list[int]]] = []
    for group in _chunks(order, per_step * STEPS_SORTED_TOGETHER):
        steps += [_chunks(step, batch_size) for step in _chunks(sorted(group, key=lambda i: lengths[i]), per_step)]
    rng.shuffle(steps)
    return steps


def evaluation_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every index once, longest first: if memory does not suffice, it shows at once."""
    return _chunks(sorted(range(len(lengths)), key=lambda i: -lengths[i]), batch_size)


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
