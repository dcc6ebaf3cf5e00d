"""From a name to a session: the base is found without a path in the adapter, and only the right one is taken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import pefttune
from pefttune.errors import AdapterError
from pefttune.inference import open_session


@pytest.fixture
def known(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The finished run on the machine that trained it: with its cache."""
    done = finished()
    monkeypatch.setenv("PEFTTUNE_CACHE", str(done.cache))
    return done


@pytest.mark.parametrize("name", ["tiny", "tiny@1"])
def test_a_stored_adapter_opens_by_name(known: Any, name: str) -> None:
    session = open_session(name, known.store)
    probe = known.run.manifest["probe"]
    predictions = list(session.predict(probe["rows"]))  # without use(): it is in use
    labels = known.run.manifest["labels"]
    assert [p.label for p in predictions] == [labels[row.index(max(row))] for (row,) in probe["scores"]]
    assert session.names == (name,)


def test_the_packages_front_door_is_the_same(known: Any) -> None:
    assert pefttune.open_session is open_session


def test_a_machine_that_has_not_seen_the_base_asks_for_it(finished: Any, tiny: Path) -> None:
    with pytest.raises(AdapterError, match=r"tiny was trained on 'tiny', a private base .* --base FOLDER"):
        open_session("tiny", finished().store)
    assert open_session("tiny", finished().store, base_source=str(tiny)).names == ("tiny",)


def test_a_base_that_moved_is_found_by_naming_it(finished: Any, tiny: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(tiny, tmp_path / "elsewhere")
    assert open_session("tiny", finished().store, base_source=str(elsewhere)).names == ("tiny",)
    assert open_session("tiny", finished().store).names == ("tiny",)  # and is known from then on


def test_naming_the_wrong_base_does_not_help(finished: Any, new_model: Any, tmp_path: Path) -> None:
    wrong = new_model(tmp_path / "wrong", seed=3)
    with pytest.raises(AdapterError, match=r"trained on another base .* They differ in: tensors"):
        open_session("tiny", finished().store, base_source=str(wrong))


def test_a_name_that_is_not_stored_is_told_with_those_that_are(known: Any) -> None:
    with pytest.raises(AdapterError, match=r"no adapter 'tidy' in the store .*; did you mean 'tiny'"):
        open_session("tidy", known.store)
    with pytest.raises(AdapterError, match="tiny has no version '7'; it has 1"):
        open_session("tiny@7", known.store)
