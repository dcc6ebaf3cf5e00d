"""`pefttune merge`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def store_of_two(shop: Any, known_bases: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store with `tiny` and `other`, which are the same adapter, beside its rows."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    shutil.copy(shop.reviews, tmp_path)
    for name in ("tiny", "other"):
        shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / name / "1")
    return tmp_path / "adapters"


def test_merged_shown_and_used(command: Any, store_of_two: Path) -> None:
    done = command("merge", "tiny", "other", "--to", "both", "--method", "svd", "--weights", "0.5,0.5", "--json")
    assert done.code == 0, done.err
    lineage = done.document["lineage"]
    assert (lineage["how"], lineage["r"]) == ("svd", 4)
    assert lineage["kept"] == pytest.approx(1.0, abs=1e-5)  # both are the same
    for row in lineage["tasks"]:
        assert row["merged"] == pytest.approx(row["alone"], abs=0.06)  # a row of 18, if one stands on the edge
    shown = command("show", "both")
    assert "Lineage" in shown.out
    assert lineage["parents"][0]["sha256"][:16] in shown.out
    assert json.loads(command("show", "both", "--json").out)["lineage"] == lineage
    assert command("predict", "both", "a fine film").code == 0
    assert command("evaluate", "both", "--json").document["adapter"] == done.document["comparison"]["adapter"]


def test_a_search_is_told(command: Any, store_of_two: Path) -> None:
    done = command(
        "merge", "tiny", "other", "--to", "both", "--search", "--steps", "2", "--max-drop", "1", "--max-rows", "6"
    )
    assert done.code == 0, done.err
    assert "trying weights 2/2" in done.err
    assert "on validation rows, the best of 2 weights" in done.out
    assert "tiny@1" in done.out
    assert "stored, read back and verified: adapters/both/1" in done.out


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_weights_of_a_random_pruning_are_sought_and_drawn_alike(command: Any, store_of_two: Path, method: str) -> None:
    """DARE drops numbers by chance: what a search has tried is what it stores, and its seed gives it again."""
    few = ["--search", "--steps", "2", "--max-drop", "1", "--max-rows", "6"]
    how = ["--method", method, "--density", "0.8", "--seed", "7"]
    found = {}
    for name, options in {"one": how, "again": how, "other": [*how[:-1], "8"]}.items():
        done = command("merge", "tiny", "other", "--to", f"both-{name}", *options, *few, "--json")
        assert done.code == 0, done.err
        lineage = done.document["lineage"]
        assert (lineage["how"], lineage["density"], lineage["seed"]) == (method, 0.8, int(options[-1]))
        assert lineage["search"]["tried"] == 2
        found[name] = Path(done.document["folder"], "adapter_model.safetensors").read_bytes()
    assert found["one"] == found["again"] != found["other"]


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        (["--weights", "a,b"], "InputError", "--weights a,b: write numbers with commas between them, such as 0.5,0.5"),
        (["--weights", "1,-1"], "InputError", "--weights 1,-1 sum to 0"),
        (["--steps", "3"], "InputError", "--steps goes with --search"),
        (["--max-drop", "0.1"], "InputError", "--max-drop goes with --search"),
        (["--method", "mean"], "InputError", "mean"),
        (["--max-rows", "0"], "InputError", "--max-rows"),
        (["--to", "tiny"], "AdapterError", "the store already holds an adapter 'tiny'"),
    ],
)
def test_bad_options(refused: Any, command: Any, store_of_two: Path, options: list[str], kind: str, told: str) -> None:
    to = [] if "--to" in options else ["--to", "both"]
    refused(command("merge", "tiny", "other", *to, *options, "--json"), 2, kind, told)
    assert sorted(path.name for path in store_of_two.iterdir()) == ["other", "tiny"]
