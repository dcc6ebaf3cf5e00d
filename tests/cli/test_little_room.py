"""A batch too small for any row, and a cache of frozen layers that is damaged or finds no room: the same result."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

TOP = "adapter.layers=top-1"


@pytest.fixture
def cache() -> Path:
    return Path(os.environ["PEFTTUNE_CACHE"]) / "boundaries"


def weights(done: Any) -> Path:
    """Of the adapter that a training stored."""
    assert done.code == 0, done.err
    return Path(done.document["folder"]) / "adapter_model.safetensors"


def test_a_batch_that_holds_no_row(train: Any) -> None:
    from safetensors.torch import load_file

    narrow, roomy = train("training.max_batch_tokens=1", "--json"), train("--json")
    told = r"notice: (\d+) of (\d+) training rows are longer than a batch of 1 tokens and get one of their own: reviews"
    [(long, of)] = re.findall(told, narrow.err)
    assert long == of
    expected, found = load_file(weights(roomy)), load_file(weights(narrow))
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        # float32: the same sums in passes of other height, through two steps of AdamW.
        assert (found[key] - weight).norm() <= 1e-3 * weight.norm(), key
    assert narrow.document["comparison"]["adapter"]["accuracy"] == roomy.document["comparison"]["adapter"]["accuracy"]


def test_a_cache_of_frozen_layers_that_was_cut_short(train: Any, cache: Path, tree: Any) -> None:
    first = train(TOP, "--json")
    whole = tree(cache)
    cut = list(cache.glob("*.bin"))
    assert len(cut) == 2  # training and validation rows
    for path in cut:
        os.truncate(path, path.stat().st_size // 2)
    for is_whole in (False, True):
        done = train(TOP, "--json")
        assert weights(done).read_bytes() == weights(first).read_bytes()
        assert tree(cache) == whole
        assert ("frozen layers, training rows" in done.err) != is_whole
        assert ("frozen layers, validation rows" in done.err) != is_whole


def test_no_room_for_a_cache_of_frozen_layers(train: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = train(TOP, "training.cache_frozen_layers=false", "--json")
    monkeypatch.setattr("pefttune.batching.kept.BYTES_LEFT_FREE", 2**60)
    done = train(TOP, "--json")
    assert weights(done).read_bytes() == weights(without).read_bytes()
    assert done.err.count("notice: the frozen layers are run again in every pass: their states need ") == 2
    assert list(cache.iterdir()) == []
