"""`pefttune diff`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def store_of_two(shop: Any, known_bases: Path, tmp_path: Path) -> Path:
    """A store with `tiny` and `other`, which are the same adapter, beside its rows."""
    shutil.copy(shop.reviews, tmp_path)
    for name in ("tiny", "other"):
        shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / name / "1")
    return tmp_path / "adapters"


@pytest.fixture
def heads(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with heads."""
    done = finished("head")
    shutil.copy(done.store.parent / "reviews.jsonl", tmp_path)
    shutil.copytree(done.cache, tmp_path / "cache")
    monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("tiny", "other"):
        shutil.copytree(done.store / "tiny" / "1", tmp_path / "adapters" / name / "1")
    return tmp_path / "adapters"


def test_two_that_are_the_same(command: Any, store_of_two: Path) -> None:
    done = command("diff", "tiny", "other", "--json")
    assert done.code == 0, done.err
    document = done.document
    assert (document["first"], document["second"], document["settings"]) == ("tiny@1", "other@1", {})
    assert {change["difference"] for change in document["changes"].values()} == {0.0}
    assert {round(change["cosine"], 12) for change in document["layers"].values()} == {1.0}
    assert (document["rows"]["changed"], document["refused"]) == ([], [])
    done = command("diff", "tiny", "other", "--max-rows", "3")
    assert "no settings differ" in done.out
    assert "model.layers.1" in done.out
    assert "0 of 3 rows are answered differently" in done.out


def test_answers_that_flip(command: Any, heads: Path) -> None:
    """The other adapter's head is turned round, so that it always answers the other label."""
    from safetensors.torch import load_file, save_file

    from pefttune.store import write_manifest

    folder = heads / "other" / "1"
    state = load_file(folder / "adapter_model.safetensors")
    save_file({k: -t if "score" in k else t for k, t in state.items()}, folder / "adapter_model.safetensors")
    manifest = json.loads((folder / "pefttune.json").read_text())
    manifest["recipe"]["seed"] = 7
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})
    document = command("diff", "tiny", "other", "--json").document
    assert document["settings"] == {"seed": [0, 7]}
    assert document["layers"]["score.weight"]["cosine"] == pytest.approx(-1.0)
    changed = document["rows"]["changed"]
    assert len(changed) == document["rows"]["rows"]
    assert set(changed[0]) == {"origin", "text", "reference", "first", "second"}
    assert document["rows"]["difference"]["difference"] < 0
    done = command("diff", "tiny", "other")
    assert f"{len(changed)} of {document['rows']['rows']} rows are answered differently" in done.out
    assert f"{changed[0]['first']} → {changed[0]['second']} (right: {changed[0]['reference']})" in done.out
    assert "rows better" in done.out


def test_what_is_refused(command: Any, refused: Any, store_of_two: Path) -> None:
    refused(command("diff", "tiny", "tiny@1", "--json"), 2, "AdapterError", "are the same version, tiny@1: name two")
    refused(command("diff", "tiny", "tinny", "--json"), 2, "AdapterError", "did you mean 'tiny'?")
    refused(command("diff", "tiny", "other", "--data", "x.txt", "--json"), 2, "DataError", "x.txt")
    done = command("diff", "tiny", "other", "--max-rows", "0")
    assert done.out.endswith("Their answers are not compared: no rows were asked for.\n")
