"""Where ranks go: to the layers in which another one explains most of what enters them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pefttune.recipe.adapters import LARGEST_RANK


def spend(explained: Mapping[str, Sequence[float]], costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """A rank for each layer, 0 for some, that together cost `budget` at most.

    `explained` has for each layer the parts of its inputs' variance that its directions explain, the greatest first, as
    many as it may have ranks; a rank of the layer costs `costs`. Taken are those that explain most for what they cost.
    With the same costs for all these are the ranks of EVA (arXiv:2410.07170).
    """
    worth = [(part / costs[name], name) for name, parts in explained.items() for part in parts]
    worth.sort(key=lambda item: -item[0])  # equals stay in the order of the layers
    ranks, left = dict.fromkeys(explained, 0), budget
    for _, name in worth:
        if costs[name] <= left:
            ranks[name] += 1
            left -= costs[name]
    return ranks


def most_ranks(sizes: Mapping[str, tuple[int, int]], budget: int, rho: float, times: int = 1) -> dict[str, int]:
    """The ranks that each layer, of inputs and outputs `sizes`, may have when so many parameters are spent: `rho` times
    those that all would get alike, or more if these cannot be spent so, and no more than `full_ranks`."""
    full, mean = full_ranks(sizes, times), budget / sum(map(sum, sizes.values()))
    while True:
        most = {name: min(max(1, round(rho * mean)), rank) for name, rank in full.items()}
        if most == full or sum(most[name] * sum(size) for name, size in sizes.items()) >= budget:
            return most
        mean *= 2


def full_ranks(sizes: Mapping[str, tuple[int, int]], times: int = 1) -> dict[str, int]:
    """The ranks that each layer, of inputs and outputs `sizes`, can have at most where so many times the rank must fit
    its weight."""
    return {name: min(min(size) // times, LARGEST_RANK) for name, size in sizes.items()}
