"""The operations that a loss needs, counted by hand on small cases."""

from __future__ import annotations

from benchmarks.job import Example, LoraChoice
from benchmarks.machine import Needed, Shape, needed, needed_flops

SHAPE = Shape(hidden=4, intermediate=6, layers=2, heads=2, kv_heads=1, head_dim=2, vocabulary=10)


def test_common_beginning_counts_once_and_last_answer_token_not() -> None:
    rows = [Example([1, 2, 3, 4], [[8], [9, 5]], 1), Example([1, 2, 7], [[8, 5], [9]], 0)]
    # beginning 1 2; then 3 4 9 and 7 8; the two 5 are predicted, but predict nothing
    assert needed(rows) == Needed(prefix=2, segments=[3, 2], labelled=4)
    assert needed(rows).tokens == 7
    # 1+2 in the beginning; 3 rows that see 2, and 1+2+3; 2 rows that see 2, and 1+2
    assert needed(rows).attended == 3 + (6 + 6) + (4 + 3)


def test_head_needs_every_token_and_one_row_each() -> None:
    assert needed([Example([1, 2], [], 0), Example([1, 3, 4], [], 1)]) == Needed(1, [1, 2], labelled=2)


def test_one_example_alone() -> None:
    need = needed([Example([1, 2, 3], [[4, 5]], 0)])
    assert (need.tokens, need.attended, need.labelled) == (4, 10, 2)


def test_linear_layers() -> None:
    assert SHAPE.linears == [(4, 4), (4, 2), (4, 2), (4, 4), (4, 6), (4, 6), (6, 4)]


def test_flops_of_adapters_everywhere() -> None:
    need = Needed(prefix=0, segments=[3], labelled=2)  # 3 tokens, 6 pairs
    weights, qkv, sides = 16 + 8 + 8 + 16 + 24 * 3, 16 + 8 + 8, 8 + 6 + 6 + 8 + 10 * 3
    forward = 2 * 3 * weights * 2
    backward = 2 * 3 * (weights * 2 - qkv)
    adapters = 6 * 3 * 2 * sides * 5
    attention = 4 * 6 * 4 * 2 * 3  # forward once, backward twice, in both layers
    output = 4 * 2 * 4 * 10
    assert needed_flops(SHAPE, LoraChoice(r=5), need) == forward + backward + adapters + attention + output


def test_flops_of_an_adapter_in_the_top_layer_only() -> None:
    need = Needed(prefix=0, segments=[3], labelled=2)
    weights, qkv, sides = 120, 32, 58
    forward, backward = 2 * 3 * weights * 2, 2 * 3 * (weights - qkv)
    rest = 6 * 3 * sides * 5 + 4 * 6 * 4 * (2 + 2) + 4 * 2 * 4 * 10
    assert needed_flops(SHAPE, LoraChoice(r=5, layers=[1]), need) == forward + backward + rest


def test_a_head_is_a_smaller_output_layer() -> None:
    need = Needed(prefix=0, segments=[3], labelled=1)
    difference = needed_flops(SHAPE, LoraChoice(), need) - needed_flops(SHAPE, LoraChoice(), need, classes=3)
    assert difference == 4 * 1 * 4 * (10 - 3)
