"""The span that the scores of a passage's windows stand for, against all spans tried one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttune.tasks.passage import Window
from pefttune.tasks.spans import best_span

WIDTH = 3  # characters of a token, and one between


def window(first: int, tokens: int) -> Window:
    starts = (WIDTH + 1) * np.arange(first, first + tokens)
    return Window((), (), None, "", first=first, characters_M2=np.stack([starts, starts + WIDTH], axis=1))


def scores_of(rng: np.random.Generator, tokens: int) -> np.ndarray:
    return np.log(rng.dirichlet(np.ones(1 + tokens), size=2)).T.astype(np.float32)


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=4),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_best_span_is_the_best_of_all_spans(
    shape: list[tuple[int, int]], longest: int, can_be_none: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    windows, end = [], 0
    for overlap, tokens in shape:  # each window begins in what came before or right behind it
        first = max(end - overlap, windows[-1].first if windows else 0)
        tokens = max(tokens, end - first)
        windows.append(window(first, tokens))
        end = first + tokens
    scores = [scores_of(rng, len(each.characters_M2)) for each in windows]

    odds: dict[tuple[int, int], float] = {}
    for each, scored in zip(windows, scores, strict=True):
        nothing = float(scored[0, 0]) + float(scored[0, 1])
        for i in range(len(each.characters_M2)):
            for j in range(i, min(i + longest, len(each.characters_M2))):
                span = (each.first + i, each.first + j)
                value = float(scored[1 + i, 0]) + float(scored[1 + j, 1]) - nothing
                odds[span] = max(value, odds.get(span, -math.inf))
    by_chance = {(4 * i, 4 * j + WIDTH): math.exp(value) for (i, j), value in odds.items()}
    if can_be_none or not by_chance:
        by_chance[0, 0] = 1.0
    expected = max(by_chance, key=lambda span: by_chance[span])

    start, end, probability = best_span(windows, scores, longest, can_be_none=can_be_none)
    assert (start, end) == expected
    # Sums of the same float64 terms in another order.
    assert probability == pytest.approx(by_chance[expected] / sum(by_chance.values()), rel=1e-9)


def test_a_window_that_says_no_answer_weighs_little_however_sure_it_is_where_it_would_be() -> None:
    sure = np.log(np.array([[0.1, 0.1], [0.6, 0.2], [0.3, 0.7]], np.float32))
    doubting = np.log(np.array([[0.98, 0.98], [0.01, 0.01], [0.01, 0.01]], np.float32))
    assert best_span([window(0, 2), window(2, 2)], [doubting, sure], 2, can_be_none=True)[:2] == (8, 15)
    assert best_span([window(0, 2), window(2, 2)], [doubting, doubting], 2, can_be_none=True)[:2] == (0, 0)
    start, end, probability = best_span([window(0, 2), window(2, 2)], [doubting] * 2, 2, can_be_none=False)
    assert end > start
    assert probability == pytest.approx(1 / 6)  # three spans in each window, all alike


def test_a_passage_cut_in_windows_gives_what_one_window_gives() -> None:
    rng = np.random.default_rng(0)
    whole = scores_of(rng, 40)
    parts = [(0, 20), (12, 32), (24, 40)]  # overlaps of 8 hold every span of 8
    cut = [np.concatenate([whole[:1], whole[1 + low : 1 + high]]) for low, high in parts]
    windows = [window(low, high - low) for low, high in parts]
    for can_be_none in (True, False):
        one = best_span([window(0, 40)], [whole], 8, can_be_none=can_be_none)
        several = best_span(windows, cut, 8, can_be_none=can_be_none)
        assert several[:2] == one[:2]
        assert several[2] == pytest.approx(one[2], rel=1e-9)
