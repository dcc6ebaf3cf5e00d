"""Which examples go together: seeded, in optimizer steps of the size the recipe asks for, in batches that fit a budget.

How a step is divided into batches changes no gradient (the loss is a sum over the whole step's labelled rows), so that
memory decides: a batch is filled up to a budget of tokens, counted as they will lie in it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from pefttune.batching.tree import WORTH_SHARING, shared_length
from pefttune.data import Example

# Padded batches want examples of like length: sought among so many steps, enough to halve padding, few enough to stay
# random.
STEPS_SORTED_TOGETHER = 8


def training_steps(
    examples: Sequence[Example], per_step: int, max_tokens: int, seed: tuple[int, int], *, ragged: bool
) -> list[list[list[int]]]:
    """One epoch: optimizer steps of `per_step` examples, each a list of batches, each a list of indices.

    `seed` is the recipe's and the number of the epoch. Every index comes once, in random order; for padded batches the
    examples are sorted by length within groups of a few steps and the steps shuffled again.
    """
    rng = random.Random(f"{seed[0]}:{seed[1]}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    if ragged:
        return steps_of(examples, _chunks(order, per_step), max_tokens, ragged=True)
    steps: list[list[int]] = []
    for group in _chunks(order, per_step * STEPS_SORTED_TOGETHER):
        steps += _chunks(sorted(group, key=lambda i: len(examples[i])), per_step)
    rng.shuffle(steps)
    return steps_of(examples, steps, max_tokens, ragged=False)


def steps_of(
    examples: Sequence[Example], steps: Sequence[Sequence[int]], max_tokens: int, *, ragged: bool
) -> list[list[list[int]]]:
    """Optimizer steps whose examples are given, each divided into batches."""
    into_batches = fill if ragged else _fill_padded
    return [into_batches(examples, step, max_tokens, every_answer=False) for step in steps]


def evaluation_batches(examples: Sequence[Example], max_tokens: int, *, ragged: bool) -> list[list[int]]:
    """Every index once, the largest batches first: if memory does not suffice, it shows at once."""
    into_batches = fill if ragged else _fill_padded
    return into_batches(examples, range(len(examples)), max_tokens, every_answer=True)


def n_fed(example: Example, every_answer: bool) -> int:
    """Tokens that the model has to read: the last of an answer predicts nothing."""
    answers = example.answers if every_answer or example.target is None else example.answers[example.target :][:1]
    return len(example.prompt) + sum(len(answer) - 1 for answer in answers)


def fill(
    examples: Sequence[Example], indices: Iterable[int], max_tokens: int, *, every_answer: bool
) -> list[list[int]]:
    """Best fit, largest first, of families of examples into batches; the trunk counts once in each.

    What alone is over the budget gets a batch of its own.
    """
    order = sorted(indices, key=lambda i: examples[i].prompt)
    if not order:
        return []
    trunk = shared_length(examples[order[0]].prompt, examples[order[-1]].prompt) if len(order) > 1 else 0
    if trunk < WORTH_SHARING:  # as the tree has it
        trunk = 0
    items = []
    for family in _families(examples, order, trunk):
        size = _size(examples, family, trunk, every_answer)
        if size + trunk <= max_tokens:
            items.append((size, family))
        else:
            items += [(n_fed(examples[i], every_answer) - trunk, [i]) for i in family]
    batches: list[list[int]] = []
    room: list[int] = []
    for size, family in sorted(items, key=lambda item: -item[0]):
        fitting = [b for b, left in enumerate(room) if left >= size]
        if fitting:
            best = min(fitting, key=lambda b: room[b])
        else:
            best = len(batches)
            batches.append([])
            room.append(max_tokens - trunk)
        batches[best] += family
        room[best] -= size
    return batches


def _families(examples: Sequence[Example], order: Sequence[int], trunk: int) -> list[list[int]]:
    """Runs of the sorted examples that share at least half of their own text: a passage and its questions."""
    families = [[order[0]]]
    for one, other in pairwise(order):
        shared = shared_length(examples[one].prompt, examples[other].prompt) - trunk
        own = min(len(examples[one].prompt), len(examples[other].prompt)) - trunk
        if shared >= max(WORTH_SHARING, own / 2):
            families[-1].append(other)
        else:
            families.append([other])
    return families


def _size(examples: Sequence[Example], family: Sequence[int], trunk: int, every_answer: bool) -> int:
    """Tokens that a family adds to a batch which has the trunk."""
    shared = shared_length(examples[family[0]].prompt, examples[family[-1]].prompt) - trunk if len(family) > 1 else 0
    return shared + sum(n_fed(examples[i], every_answer) - trunk - shared for i in family)


def _fill_padded(
    examples: Sequence[Example], indices: Iterable[int], max_tokens: int, *, every_answer: bool
) -> list[list[int]]:
    """Examples of like length, longest first, as many as fit when all are as long as the first."""
    batches: list[list[int]] = []
    rows = width = 0
    for i in sorted(indices, key=lambda i: -len(examples[i])):
        more = max(1, len(examples[i].answers)) if every_answer else 1
        if not batches or (rows + more) * width > max_tokens:
            batches.append([])
            rows, width = 0, len(examples[i])
        batches[-1].append(i)
        rows += more
    return batches


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
