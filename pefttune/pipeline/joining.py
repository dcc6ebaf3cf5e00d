"""Which adapters can become one, and how: all that is told before a base is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pefttune import store
from pefttune.errors import AdapterError, InputError
from pefttune.pipeline.parents import Parent, check_same_base, read_parent

WAYS = ("linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune")
PRUNING = WAYS[2:]
LARGEST_R = 1024  # that a recipe may ask for
DENSITY = 0.5
LARGEST_WEIGHT = 1000  # far over what is of use, far below what float32 could not hold


@dataclass(frozen=True)
class Search:
    """Weights are sought in at most `steps` tries; no task may drop by more than `max_drop` on its validation rows."""

    steps: int = 16
    max_drop: float = 0.02


@dataclass(frozen=True)
class Way:
    """How adapters become one: `how` is one of `WAYS`, `weights` one for each adapter, by default 1 / n.

    `density` is the share of an update's numbers that pruning leaves, by default a half. `r` is the rank of the result,
    by default that of all parents together, or for `svd` the largest one; `linear` takes no other. `seed` is that of
    whatever is drawn. With a `search` the weights are sought.
    """

    how: str = "linear"
    weights: tuple[float, ...] | None = None
    density: float | None = None
    r: int | None = None
    seed: int = 0
    search: Search | None = None

    @property
    def pruned_to(self) -> float | None:
        """The share of an update's numbers that is left; None where nothing is pruned."""
        return (self.density or DENSITY) if self.how in PRUNING else None


def check_way(way: Way, n: int) -> None:
    """Raise InputError where the way is none, or its numbers do not fit together for n adapters."""
    if way.how not in WAYS:
        raise InputError(f"--method {way.how} is not a way of merging; take one of {', '.join(WAYS)}")
    if way.search and way.weights:
        raise InputError("--weights and --search are two ways to the weights; use one of them")
    if way.weights is not None:
        _check_weights(way.weights, n)
    if way.density is not None and way.how not in PRUNING:
        raise InputError(f"--density goes with {', '.join(PRUNING)}; {way.how} prunes nothing")
    if way.density is not None and not 0 < way.density <= 1:
        raise InputError(f"--density {way.density:g} is not a share of the numbers to keep: it must be in (0, 1]")
    if way.r is not None and way.how == "linear":
        raise InputError("--r goes with the other methods: linear keeps the ranks of all adapters; take --method svd")
    if way.r is not None and not 0 < way.r <= LARGEST_R:
        raise InputError(f"--r {way.r} is not a rank between 1 and {LARGEST_R}")
    if not 0 <= way.seed < 2**32:
        raise InputError(f"--seed {way.seed} is not a number from 0 to 4294967295")
    if way.search and way.search.steps < 1:
        raise InputError(f"--steps {way.search.steps}: a search tries one set of weights at least")
    if way.search and not 0 <= way.search.max_drop < math.inf:
        raise InputError(f"--max-drop {way.search.max_drop:g} is not a drop of a metric: take 0.02, say")


def _check_weights(weights: Sequence[float], n: int) -> None:
    told = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != n:
        raise InputError(f"--weights {told}: there are {n} adapters, so give {n} weights")
    if not all(abs(weight) <= LARGEST_WEIGHT for weight in weights):  # nan is not
        raise InputError(f"--weights {told}: each must be a number from -{LARGEST_WEIGHT} to {LARGEST_WEIGHT}")
    if abs(sum(weights)) < 1e-6:
        raise InputError(
            f"--weights {told} sum to 0, so that nothing would be left of what the adapters have in common"
        )


def read_parents(store_folder: Path, names: Sequence[str], to: str) -> list[Parent]:
    """The adapters that are to become `to`. Raises AdapterError where a name is not there, twice, unsafe or taken."""
    store.check_name(to)
    if len(names) < 2:
        raise AdapterError("to merge, name two adapters at least")
    parents = [read_parent(store_folder, name) for name in names]
    called = [parent.called for parent in parents]
    if twice := [one for one in called if called.count(one) > 1]:
        raise AdapterError(f"{twice[0]} is named twice; to give it more weight, use --weights")
    if store.versions(store_folder, to):
        raise AdapterError(f"the store already holds an adapter {to!r}: a merged one gets a name of its own")
    return parents


def check_alike(parents: Sequence[Parent]) -> None:
    """Raise AdapterError unless all are LoRA adapters of the same layers of one base, and those with heads do the same
    task."""
    first, *others = parents
    for parent in parents:
        if parent.recipe.adapter.method != "lora":
            raise AdapterError(f"{parent.called} is a {parent.recipe.adapter.method}: only lora adapters can be merged")
    check_same_base(parents)
    layers = {layer for layer, _ in _layers(first)}
    for other in others:
        if strangers := sorted(layers ^ {layer for layer, _ in _layers(other)}):
            raise AdapterError(
                f"{first.called} and {other.called} adapt different layers, {strangers[0]} only one of them; adapters "
                "that are to be merged need the same adapter.target_modules and adapter.layers"
            )
    if any(parent.manifest.get("head") for parent in parents):
        for other in others:
            _check_heads(first, other)


def _check_heads(first: Parent, other: Parent) -> None:
    """Heads are averaged number by number, which says something only where each number means the same."""
    differences = [
        what
        for what, ours, theirs in (
            ("task", first.recipe.task, other.recipe.task),
            ("labels", first.manifest["labels"], other.manifest["labels"]),
            ("head", first.manifest.get("head"), other.manifest.get("head")),
        )
        if ours != theirs
    ]
    if differences:
        raise AdapterError(
            f"{first.called} and {other.called} differ in {', '.join(differences)}, and heads can be merged only where "
            "these are the same; a session uses such adapters side by side instead"
        )


def rank(parents: Sequence[Parent], way: Way) -> int:
    """The rank of the merged adapter. Raises AdapterError where it is over what a recipe or a layer allows."""
    from pefttune import methods

    ranks = [max(r for _, r in _layers(parent)) for parent in parents]
    r = way.r or (max(ranks) if way.how == "svd" else sum(ranks))
    shapes = methods.weights.low_rank_shapes(parents[0].folder)
    halves = methods.weights.LOW_RANK  # (r, inputs), (outputs, r)
    widths = {key: max(shape) for key, shape in shapes.items() if key.endswith(halves)}
    narrowest = min(widths, key=lambda key: widths[key])
    if r > (most := min(widths[narrowest], LARGEST_R)):
        how = "svd" if way.how == "linear" else way.how
        raise AdapterError(
            f"a merged adapter of rank {r} is over {most}, the most that {narrowest.partition('.lora_')[0]} or a "
            f"recipe allows: take --method {how} --r {most}, or less"
        )
    return r


def _layers(parent: Parent) -> list[tuple[str, int]]:
    """The layers that it adapts, as its file calls them, each with its rank. Raises AdapterError for none."""
    from pefttune import methods

    end = ".lora_A.weight"
    shapes = methods.weights.low_rank_shapes(parent.folder)
    layers = [(key.removesuffix(end), shape[0]) for key, shape in shapes.items() if key.endswith(end)]
    if not layers:
        raise AdapterError(f"{parent.called} has no update that could be merged")
    return layers
