"""Every example comes once, in steps of the size asked for, beside examples of like length."""

from __future__ import annotations

import math
import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pefttune.batching import evaluation_batches, training_steps
from pefttune.batching.plan import STEPS_SORTED_TOGETHER

LENGTHS = st.lists(st.integers(1, 500), max_size=300)
SIZES = st.integers(1, 7)
SEEDS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 5))


@given(LENGTHS, SIZES, SIZES, SEEDS)
def test_every_index_comes_once(lengths: list[int], batch: int, accumulation: int, seed: tuple[int, int]) -> None:
    steps = training_steps(lengths, batch, accumulation, seed)
    assert sorted(i for step in steps for micro in step for i in micro) == list(range(len(lengths)))


@given(LENGTHS, SIZES, SIZES, SEEDS)
def test_all_steps_but_one_are_full(lengths: list[int], batch: int, accumulation: int, seed: tuple[int, int]) -> None:
    per_step = batch * accumulation
    steps = training_steps(lengths, batch, accumulation, seed)
    assert len(steps) == math.ceil(len(lengths) / per_step)
    sizes = [[len(micro) for micro in step] for step in steps]
    short = [step for step in sizes if step != [batch] * accumulation]
    assert len(short) <= 1
    for step in short:  # it, too, has full micro-batches but for the last
        assert step[:-1] == [batch] * (len(step) - 1)
        assert sum(step) == len(lengths) % per_step


@given(LENGTHS, SIZES, SIZES, SEEDS)
def test_within_a_group_no_step_overlaps_another_in_length(
    lengths: list[int], batch: int, accumulation: int, seed: tuple[int, int]
) -> None:
    one_group = lengths[: batch * accumulation * STEPS_SORTED_TOGETHER]
    steps = training_steps(one_group, batch, accumulation, seed)
    micros = [sorted(one_group[i] for i in micro) for step in steps for micro in step]
    for shorter, longer in pairwise(sorted(micros)):
        assert shorter[-1] <= longer[0]
    for step in steps:  # and what the loop is given stands in that order
        inside = [one_group[i] for micro in step for i in micro]
        assert inside == sorted(inside)


@given(LENGTHS, SIZES, SIZES, SEEDS)
def test_the_same_seed_gives_the_same_plan(
    lengths: list[int], batch: int, accumulation: int, seed: tuple[int, int]
) -> None:
    state = random.getstate()
    assert training_steps(lengths, batch, accumulation, seed) == training_steps(lengths, batch, accumulation, seed)
    assert random.getstate() == state, "the plan used the random numbers of everybody"


def test_another_epoch_and_another_seed_give_another_order() -> None:
    lengths = [1] * 64
    plans = [training_steps(lengths, 8, 1, seed) for seed in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len({str(plan) for plan in plans}) == 4


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def test_sorting_halves_the_padding_of_real_lengths() -> None:
    # Lengths as film reviews have them: most short, a few long.
    draw = random.Random(0)
    lengths = [8 + int(draw.lognormvariate(3, 0.8)) for _ in range(2000)]
    micros = [micro for step in training_steps(lengths, 16, 1, (0, 0)) for micro in step]
    unsorted = [list(range(start, min(start + 16, 2000))) for start in range(0, 2000, 16)]
    waste = padded(lengths, micros) - sum(lengths)
    assert waste < 0.5 * (padded(lengths, unsorted) - sum(lengths))


def test_steps_are_not_in_order_of_length() -> None:
    lengths = list(range(16 * STEPS_SORTED_TOGETHER))  # one group, sorted inside
    firsts = [step[0][0] for step in training_steps(lengths, 16, 1, (0, 0))]
    assert firsts != sorted(firsts)


@given(LENGTHS, SIZES)
def test_evaluation_takes_every_index_once_longest_first(lengths: list[int], batch: int) -> None:
    batches = evaluation_batches(lengths, batch)
    order = [i for indices in batches for i in indices]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert [len(indices) for indices in batches[:-1]] == [batch] * (len(batches) - 1)
