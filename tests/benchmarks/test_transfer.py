"""Forecasts beside truths: no pair has a part in its own interval."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.transfer import TRUTH, inside, judged, spread_of

SHIPPED_RECIPES_AT_LEAST = 10


def pair(name: str, truth: float, metric: float, tuned: bool = True) -> dict[str, Any]:
    told = {"probe": metric / 2, "cpu_s": 1.0, "trained_cpu_s": 50.0, "transfers": True}
    return {"name": name, "truth": truth, "metric": metric, "tuned": tuned, **told}


PAIRS = [pair("a", 0.9, 0.8), pair("b", 0.8, 0.6), pair("c", 0.6, 0.2), pair("d", 0.99, 0.9)]


def test_a_pair_has_no_part_in_its_own_interval() -> None:
    assert spread_of(PAIRS[:3]) == pytest.approx(math.log(2))
    assert not inside(PAIRS[3], PAIRS)  # a tenth of the error is left, where the others leave half: 2.3 > 1.96 · 0.69
    assert inside(PAIRS[0], PAIRS)


def test_a_head_alone_has_no_part_in_the_spread() -> None:
    assert spread_of([*PAIRS, pair("head", 0.1, 0.9, tuned=False)]) == spread_of(PAIRS)


def test_ranks_and_shares() -> None:
    found = judged(PAIRS)
    assert found["weighted_tau"] == pytest.approx(1)
    assert found["mean_absolute_error"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.09) / 4)
    assert found["mean_ratio_of_errors"] == pytest.approx((0.5**3 / 10) ** 0.25)
    assert found["inside_left_out_intervals"] == 0.75
    assert found["cpu_share"] == pytest.approx(0.02)
    assert judged([{**one, "metric": 1 - one["metric"]} for one in PAIRS])["weighted_tau"] < 0


def test_truths_are_of_shipped_recipes_and_told_once() -> None:
    from pefttune.recipe import shipped_recipes

    pairs = json.loads(TRUTH.read_text(encoding="utf-8"))["pairs"]
    assert len({one["name"] for one in pairs}) == len(pairs) >= 12
    assert {one["recipe"] for one in pairs} <= set(shipped_recipes())
    assert len({one["recipe"] for one in pairs}) >= SHIPPED_RECIPES_AT_LEAST
    assert all(0 < one["metric"] < 1 for one in pairs)
