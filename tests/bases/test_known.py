"""The index of seen bases is a convenience: it remembers, forgets what is gone, and never stops a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pefttune import bases
from pefttune.bases.known import find, remember
from pefttune.bases.locate import Located
from pefttune.data import cache_dir


def test_a_loaded_folder_is_found_by_its_fingerprint(base_of: Any, tiny: Path) -> None:
    base = base_of()
    assert bases.find_known(base.fingerprint.digest) == str(tiny.resolve())
    assert bases.find_known("0" * 32) is None


def test_a_folder_that_vanished_is_forgotten(base_of: Any, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "moved")
    digest = base_of(folder).fingerprint.digest
    shutil.rmtree(folder)
    assert find(digest) is None


def test_the_place_it_was_last_seen_in_counts(base_of: Any, tiny: Path, tmp_path: Path) -> None:
    digest = base_of().fingerprint.digest
    folder = shutil.copytree(tiny, tmp_path / "newer")
    base_of(folder)
    assert find(digest) == str(folder)


def test_a_base_of_the_hub_is_not_noted(tmp_path: Path) -> None:
    remember("d" * 32, "org/name", Located(tmp_path, "org/name", "main", "Hub: org/name"))
    assert not (cache_dir() / "known-bases.json").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "\x00\xff"])
def test_a_damaged_index_fills_itself_again(base_of: Any, tiny: Path, damage: str) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "known-bases.json").write_text(damage)
    assert find("d" * 32) is None
    digest = base_of().fingerprint.digest
    assert find(digest) == str(tiny.resolve())


def test_earlier_entries_stay(base_of: Any, new_model: Any, tmp_path: Path) -> None:
    first = base_of().fingerprint.digest
    second = base_of(new_model(tmp_path / "second", seed=2)).fingerprint.digest
    assert find(first)
    assert find(second)
    assert set(json.loads((cache_dir() / "known-bases.json").read_text())) == {first, second}
    assert [path.name for path in cache_dir().iterdir()] == ["known-bases.json"]


def test_a_cache_that_cannot_be_written_stops_nothing(
    base_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "file" / "cache"))  # no folder can be made inside a file
    digest = base_of().fingerprint.digest
    assert find(digest) is None
