"""Forecasts beside truths: each pair is foretold without itself."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.transfer import TRUTH, judged, left_out

SHIPPED_RECIPES_AT_LEAST = 10


def pair(name: str, truth: float, probe_ahead: float, tuned: bool = True) -> dict[str, Any]:
    told = {"metric": 0.9, "low": 0.8, "high": 0.95, "probe": probe_ahead, "cpu_s": 1.0, "trained_cpu_s": 50.0}
    return {"name": name, "truth": truth, "probe_ahead": probe_ahead, "tuned": tuned, **told}


PAIRS = [pair("a", 0.9, 0.8), pair("b", 0.8, 0.6), pair("c", 0.6, 0.2), pair("d", 0.99, 0.9)]


def test_a_pair_has_no_part_in_its_own_forecast() -> None:
    told = {one.name: one for one in left_out(PAIRS)}
    assert told["d"].forecast == pytest.approx(0.95)  # the others leave half of the error: 0.1 / 2
    left = (0.5 * 0.5 * 0.1) ** (1 / 3)
    assert told["a"].forecast == pytest.approx(1 - 0.2 * left)
    assert told["a"].low < told["a"].forecast < told["a"].high


def test_a_head_alone_keeps_the_forecast_of_the_package() -> None:
    told = left_out([*PAIRS, pair("head", 0.9, 0.5, tuned=False)])
    assert (told[-1].low, told[-1].forecast, told[-1].high) == (0.8, 0.9, 0.95)
    assert [one.forecast for one in told[:-1]] == [one.forecast for one in left_out(PAIRS)]


def test_ranks_and_shares() -> None:
    found = judged(PAIRS)
    assert found["weighted_tau"] == pytest.approx(1)
    assert found["cpu_share"] == pytest.approx(0.02)
    assert found["tuned_error"] == pytest.approx(math.exp((3 * math.log(0.5) + math.log(0.1)) / 4))
    turned = [{**one, "probe_ahead": 1 - one["probe_ahead"]} for one in PAIRS]
    assert judged(turned)["weighted_tau"] < 0


def test_truths_are_of_shipped_recipes_and_told_once() -> None:
    from pefttune.recipe import shipped_recipes

    pairs = json.loads(TRUTH.read_text(encoding="utf-8"))["pairs"]
    assert len({one["name"] for one in pairs}) == len(pairs) >= 12
    assert {one["recipe"] for one in pairs} <= set(shipped_recipes())
    assert len({one["recipe"] for one in pairs}) >= SHIPPED_RECIPES_AT_LEAST
    assert all(0 < one["metric"] < 1 for one in pairs)
