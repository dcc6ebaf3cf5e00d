"""`alias`, `remove` and `gc` as they are typed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pefttune import store


@pytest.fixture
def three(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store here, with three versions of `tiny`."""
    monkeypatch.chdir(tmp_path)
    for version in (1, 2, 3):
        shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / str(version))
    return tmp_path / "adapters"


def test_an_alias_is_shown_by_and_moved(command: Any, three: Path) -> None:
    assert command("alias", "tiny@2", "best").out == "tiny@best is tiny@2\n"
    assert command("show", "tiny@best", "--json").document["folder"] == "adapters/tiny/2"
    assert command("alias", "tiny", "best", "--json").document == {"name": "tiny", "version": 3, "alias": "best"}
    assert command("show", "tiny@best", "--json").document["folder"] == "adapters/tiny/3"


def test_one_version_is_removed(command: Any, refused: Any, three: Path) -> None:
    refused(command("remove", "tiny", "--json"), 2, "AdapterError", "tiny has versions 1, 2, 3: say which")
    [gone] = command("remove", "tiny@1", "--json").document["removed"]
    assert gone == {"what": "tiny@1", "bytes": sum(path.stat().st_size for path in (three / "tiny" / "2").iterdir())}
    hold = store.Hold(three / "tiny" / "3")
    refused(command("remove", "tiny@3", "--json"), 2, "AdapterError", "tiny@3 is in use by a process")
    hold.release()
    assert command("remove", "tiny@3").out.startswith("removed: tiny@3 (")
    assert command("remove", "tiny").out.startswith("removed: tiny@2 (")
    refused(command("remove", "tiny", "--json"), 2, "AdapterError", "no adapter 'tiny'")


def test_a_session_keeps_what_it_has_loaded(command: Any, refused: Any, known_bases: Path, three: Path) -> None:
    from pefttune.inference import open_session

    session = open_session("tiny@1")
    refused(command("remove", "tiny@1", "--json"), 2, "AdapterError", "in use")
    session.remove("tiny@1")
    assert command("remove", "tiny@1").code == 0


def test_gc(command: Any, three: Path) -> None:
    command("alias", "tiny@1", "best")
    assert [one["what"] for one in command("gc", "--keep", 1, "--dry-run", "--json").document["would_go"]] == ["tiny@2"]
    assert command("gc").out == "nothing to remove\n"
    assert command("gc", "--keep", 1).out.startswith("removed: tiny@2 (")
    assert store.versions(three, "tiny") == [1, 3]
    assert command("gc", "--keep", 0).code == 2
