"""A version goes whole or stays whole: never one in use, never one that an alias names, and its number is not given
again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pefttune import store
from pefttune.errors import AdapterError


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def put(shelf: Path) -> Callable[..., Path]:
    def one(name: str = "film") -> Path:
        with store.staged(shelf, name) as staging:
            (staging / "adapter_model.safetensors").write_text("weights")
            store.write_manifest(staging, {"name": name})
            return store.commit(staging)

    return one


def test_a_version_is_removed_and_its_number_not_given_again(shelf: Path, put: Callable[..., Path]) -> None:
    put()
    second = put()
    nbytes = sum(path.stat().st_size for path in second.iterdir())
    assert store.remove(second) == store.Removed("film@2", nbytes)
    assert store.versions(shelf, "film") == [1]
    assert put().name == "3"
    store.remove(shelf / "film" / "1")
    store.remove(shelf / "film" / "3")
    assert store.names(shelf) == []
    assert put().name == "4"


def test_a_version_in_use_stays(shelf: Path, put: Callable[..., Path]) -> None:
    folder = put()
    hold = store.Hold(folder)
    with pytest.raises(AdapterError, match="film@1 is in use by a process"):
        store.remove(folder)
    assert store.versions(shelf, "film") == [1]
    hold.release()
    store.remove(folder)


HOLDS = """
import sys
from pathlib import Path
from pefttune import store
hold = store.Hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_version_in_use_elsewhere_stays_until_that_process_is_dead(put: Callable[..., Path]) -> None:
    folder = put()
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(AdapterError, match="is in use"):
            store.remove(folder)
        other.kill()
    store.remove(folder)


def test_a_hold_that_nobody_keeps_is_none(put: Callable[..., Path]) -> None:
    folder = put()
    store.Hold(folder)
    store.remove(folder)


def test_what_is_being_removed_cannot_be_held(put: Callable[..., Path]) -> None:
    from pefttune.store.holding import alone

    folder = put()
    with alone(folder) as free:
        assert free
        with pytest.raises(AdapterError, match="is being removed"):
            store.Hold(folder)


def test_an_alias_names_a_version_and_keeps_it(shelf: Path, put: Callable[..., Path]) -> None:
    first, second = put(), put()
    store.alias(first, "best")
    assert store.find(shelf, "film@best") == first
    assert store.find(shelf, "film") == second
    with pytest.raises(AdapterError, match=r"film@1 is film@best; give that alias"):
        store.remove(first)
    store.alias(second, "best")
    assert store.find(shelf, "film@best") == second
    store.remove(first)
    with pytest.raises(AdapterError, match=r"no version 'worst'; it has 2, best"):
        store.find(shelf, "film@worst")


@pytest.mark.parametrize("alias", ["7", "../1", "", "Best", "a b", "base"])
def test_what_cannot_be_an_alias(shelf: Path, put: Callable[..., Path], alias: str) -> None:
    folder = put()
    with pytest.raises(AdapterError, match="cannot"):
        store.alias(folder, alias)
    assert store.read_record(shelf / "film").aliases == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"aliases": {"best": "1"}, "last": 0}', '{"aliases": {}}', "[" * 10**5]
)
def test_a_damaged_record_is_told(shelf: Path, put: Callable[..., Path], text: str) -> None:
    put()
    (shelf / "film" / ".record.json").write_text(text)
    assert store.find(shelf, "film").name == "1"
    with pytest.raises(AdapterError, match=r"\.record\.json"):
        store.find(shelf, "film@best")


def test_tidying_leaves_the_newest_the_named_and_the_used(shelf: Path, put: Callable[..., Path]) -> None:
    folders = [put() for _ in range(6)]
    put("other")
    store.alias(folders[1], "best")
    hold = store.Hold(folders[2])
    (shelf / "film" / ".staging-killed").mkdir()
    (shelf / "film" / ".staging-killed" / "half").write_text("half")
    with store.staged(shelf, "film") as staging:
        would = [one.what for one in store.tidy(shelf, 2, dry=True)]
        assert would == ["film/.staging-killed", "film@1", "film@4"]
        assert store.versions(shelf, "film") == [1, 2, 3, 4, 5, 6]
        assert [one.what for one in store.tidy(shelf, 2, dry=False)] == would
        assert staging.is_dir()
    assert store.versions(shelf, "film") == [2, 3, 5, 6]
    assert store.versions(shelf, "other") == [1]
    hold.release()
    assert [one.what for one in store.tidy(shelf, 2, dry=False)] == ["film@3"]
    assert sorted(path.name for path in (shelf / "film").iterdir()) == [".record.json", "2", "5", "6"]


ALIASES = """
import sys
from pathlib import Path
from pefttune import store
for i in range(50):
    store.alias(Path(sys.argv[1]), f"{sys.argv[2]}-{i}")
"""


def test_processes_that_give_aliases_at_once_lose_none(shelf: Path, put: Callable[..., Path]) -> None:
    folder = put()
    jobs = [subprocess.Popen([sys.executable, "-c", ALIASES, str(folder), who]) for who in "abc"]
    assert [job.wait(timeout=60) for job in jobs] == [0, 0, 0]
    assert len(store.read_record(shelf / "film").aliases) == 150
