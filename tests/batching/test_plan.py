"""Every example comes once, in steps of the size asked for, in batches that hold no more tokens than they may."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttune.batching import Batch, evaluation_batches, n_fed, padded, ragged, steps_of, training_steps
from pefttune.batching.plan import STEPS_SORTED_TOGETHER
from pefttune.data import Example

CPU = torch.device("cpu")
BOUNDED = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SIZES = st.integers(1, 14)
BUDGETS = st.integers(1, 300)
SEEDS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 5))
TRUNK = tuple(range(5, 25))


@st.composite
def lists(draw: st.DrawFn, trunk: Sequence[int] = TRUNK, largest: int = 30, least: int = 0) -> list[Example]:
    """Examples whose prompts begin with `trunk` and, some of them, with a passage."""
    passages = [tuple(range(100 * n, 100 * n + draw(st.integers(0, 60)))) for n in range(1, 4)]
    examples = []
    for number in range(draw(st.integers(least, largest))):
        own = (1000 + number, *range(draw(st.integers(0, 40))))  # told apart by their first token
        answers = tuple(tuple(range(length)) for length in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
        prompt = (*trunk, *draw(st.sampled_from([(), *passages])), *own)
        examples.append(Example(prompt, answers, draw(st.integers(0, len(answers) - 1)), str(number)))
    return examples


def made(examples: Sequence[Example], indices: Sequence[int], *, every: bool, is_ragged: bool) -> Batch:
    some = [examples[i] for i in indices]
    if is_ragged:
        return ragged(some, every_answer=every, causal=True, device=CPU)
    return padded(some, 0, every_answer=every, device=CPU)


@BOUNDED
@given(lists(), SIZES, BUDGETS, SEEDS, st.booleans())
def test_every_index_comes_once_in_steps_of_the_size_asked_for(
    examples: list[Example], per_step: int, budget: int, seed: tuple[int, int], is_ragged: bool
) -> None:
    steps = training_steps(examples, per_step, budget, seed, ragged=is_ragged)
    assert sorted(i for step in steps for batch in step for i in batch) == list(range(len(examples)))
    assert len(steps) == math.ceil(len(examples) / per_step)
    sizes = [sum(map(len, step)) for step in steps]
    short = [size for size in sizes if size != per_step]
    assert short in ([], [len(examples) % per_step])
    assert all(batch for step in steps for batch in step)


@BOUNDED
@given(lists(), SIZES, BUDGETS, SEEDS, st.booleans())
def test_the_same_seed_gives_the_same_plan(
    examples: list[Example], per_step: int, budget: int, seed: tuple[int, int], is_ragged: bool
) -> None:
    state = random.getstate()
    once, again = (training_steps(examples, per_step, budget, seed, ragged=is_ragged) for _ in range(2))
    assert once == again
    assert random.getstate() == state, "the plan used the random numbers of everybody"


@pytest.mark.parametrize("is_ragged", [True, False])
def test_another_epoch_and_another_seed_give_another_order(is_ragged: bool) -> None:
    examples = [Example((i, i), ((1,),), 0, str(i)) for i in range(64)]
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1)]
    plans = [training_steps(examples, 8, 1000, seed, ragged=is_ragged) for seed in seeds]
    assert len({str(plan) for plan in plans}) == 4


@BOUNDED
@given(lists(least=1), BUDGETS, st.booleans())
def test_a_batch_over_budget_is_a_single_row(examples: list[Example], budget: int, is_ragged: bool) -> None:
    (step,) = steps_of(examples, [list(range(len(examples)))], budget, ragged=is_ragged)
    for batches, every in ((step, False), (evaluation_batches(examples, budget, ragged=is_ragged), True)):
        assert sorted(i for batch in batches for i in batch) == list(range(len(examples)))
        for batch in batches:
            tokens = made(examples, batch, every=every, is_ragged=is_ragged).ids_BT.numel()
            # Up to 7 tokens that a few of a batch share beyond the trunk are not worth a node, but were counted as one.
            slack = 7 * (len(batch) - 1) if is_ragged else 0
            assert len(batch) == 1 or tokens <= budget + slack, (batch, tokens)


def test_a_trunk_that_is_not_worth_sharing_counts_in_every_row() -> None:
    examples = [Example((1, 2, 3, 10 + i, 5, 6, 7), ((8,),), 0, str(i)) for i in range(30)]
    (step,) = steps_of(examples, [list(range(30))], 100, ragged=True)
    assert max(made(examples, batch, every=False, is_ragged=True).n_tokens for batch in step) <= 100


@BOUNDED
@given(lists(least=1))
def test_fed_tokens_are_those_of_a_batch_of_one(examples: list[Example]) -> None:
    for i, example in enumerate(examples):
        for every in (True, False):
            assert n_fed(example, every) == made(examples, [i], every=every, is_ragged=True).n_tokens
        marked = Example(example.prompt, (), None, "", marks=((0, 1),))
        assert n_fed(marked, False) == n_fed(marked, True) == len(marked.prompt)


def test_questions_on_one_passage_stay_together() -> None:
    passages = [tuple(range(1000 * n, 1000 * n + 50)) for n in range(1, 9)]
    examples = [
        Example((*TRUNK, *passages[i % 8], i, 7), ((1,),), 0, str(i)) for i in range(32)
    ]  # 8 passages, 4 questions each
    (step,) = steps_of(examples, [list(range(32))], 20 + 2 * 58, ragged=True)
    assert [sorted({i % 8 for i in batch}) for batch in step if len({i % 8 for i in batch}) > 2] == []
    for passage in range(8):
        assert len([batch for batch in step if any(i % 8 == passage for i in batch)]) == 1
    assert len(step) == 4
    assert [made(examples, batch, every=False, is_ragged=True).n_tokens for batch in step] == [20 + 2 * 58] * 4


def test_a_family_too_large_for_a_batch_is_divided() -> None:
    examples = [Example((*TRUNK, i, 7), ((1,),), 0, str(i)) for i in range(40)]
    (step,) = steps_of(examples, [list(range(40))], 40, ragged=True)
    assert [len(batch) for batch in step] == [10] * 4  # the trunk's 20 and 10 times 2


def padding(examples: list[Example], batches: list[list[int]]) -> int:
    return sum(
        len(batch) * max(len(examples[i]) for i in batch) - sum(len(examples[i]) for i in batch) for batch in batches
    )


def test_sorting_halves_the_padding_of_real_lengths() -> None:
    # Lengths as film reviews have them: most short, a few long.
    draw = random.Random(0)
    examples = [Example((0,) * (8 + int(draw.lognormvariate(3, 0.8))), ((1,),), 0, "") for _ in range(2000)]
    batches = [batch for step in training_steps(examples, 16, 10**9, (0, 0), ragged=False) for batch in step]
    assert {len(batch) for batch in batches} == {16}
    unsorted = [list(range(start, start + 16)) for start in range(0, 2000, 16)]
    assert padding(examples, batches) < 0.5 * padding(examples, unsorted)


@BOUNDED
@given(lists(), SIZES, BUDGETS, SEEDS)
def test_within_a_group_no_padded_step_overlaps_another_in_length(
    examples: list[Example], per_step: int, budget: int, seed: tuple[int, int]
) -> None:
    one_group = examples[: per_step * STEPS_SORTED_TOGETHER]
    steps = training_steps(one_group, per_step, budget, seed, ragged=False)
    for shorter, longer in pairwise(sorted(sorted(len(one_group[i]) for b in step for i in b) for step in steps)):
        assert shorter[-1] <= longer[0]
    for step in steps:  # inside, the longest first: if memory does not suffice, it shows at once
        inside = [len(one_group[i]) for batch in step for i in batch]
        assert inside == sorted(inside, reverse=True)


@pytest.mark.parametrize("is_ragged", [True, False])
def test_steps_are_not_in_order_of_length(is_ragged: bool) -> None:
    examples = [Example((0,) * (i + 1), ((1,),), 0, "") for i in range(16 * STEPS_SORTED_TOGETHER)]
    steps = training_steps(examples, 16, 10**9, (0, 0), ragged=is_ragged)
    firsts = [len(examples[step[0][0]]) for step in steps]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


@pytest.mark.parametrize("is_ragged", [True, False])
def test_nothing_is_planned_for_nothing(is_ragged: bool) -> None:
    assert training_steps([], 4, 100, (0, 0), ragged=is_ragged) == []
    assert steps_of([], [], 100, ragged=is_ragged) == []


@pytest.mark.parametrize("is_ragged", [False, True])
def test_no_examples_are_no_batches(is_ragged: bool) -> None:
    assert evaluation_batches([], 100, ragged=is_ragged) == []
