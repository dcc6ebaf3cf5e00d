"""A version is there whole or not at all, whatever fails meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pefttune import store
from pefttune.errors import AdapterError, StorageError
from pefttune.store.naming import RESERVED


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def fill(staging: Path, content: str = "weights") -> None:
    (staging / "adapter_model.safetensors").write_text(content)
    store.write_manifest(staging, {"name": "film"})


def put(shelf: Path, content: str = "weights", name: str = "film") -> Path:
    with store.staged(shelf, name) as staging:
        fill(staging, content)
        return store.commit(staging)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, also what begins with a dot, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a..b", "../x", "a/b", "/etc/passwd", "~", "a\\b", "C:x", "Film", "FILM", "film name", " film",
        "film\n", "film\x00", "\x00", "ﬁlm", "film*", "-film", ".film", "_film", "a" * 65, *sorted(RESERVED),
    ],
)  # fmt: skip
def test_names_that_could_leave_the_store_are_refused(shelf: Path, name: str) -> None:
    for use in (store.check_name, lambda name: store.find(shelf, name), lambda name: put(shelf, name=name)):
        with pytest.raises(AdapterError, match="cannot name an adapter"):
            use(name)
    assert not shelf.exists()


@pytest.mark.parametrize("name", ["a", "7", "film-sentiment", "film_2.1", "a" * 64])
def test_plain_names_are_taken(shelf: Path, name: str) -> None:
    assert put(shelf, name=name) == shelf / name / "1"
    assert store.names(shelf) == [name]


def test_versions_count_up_and_the_newest_is_found(shelf: Path) -> None:
    for version in (1, 2, 3):
        assert put(shelf, f"content {version}") == shelf / "film" / str(version)
    assert store.versions(shelf, "film") == [1, 2, 3]
    assert store.find(shelf, "film") == shelf / "film" / "3"
    assert store.find(shelf, "film@2") == shelf / "film" / "2"
    assert (shelf / "film" / "2" / "adapter_model.safetensors").read_text() == "content 2"


def test_ten_comes_after_nine(shelf: Path) -> None:
    for _ in range(10):
        put(shelf)
    assert store.find(shelf, "film").name == "10"
    assert put(shelf).name == "11"


def test_a_removed_version_is_not_given_again_while_a_later_one_stands(shelf: Path) -> None:
    import shutil

    for _ in range(3):
        put(shelf)
    shutil.rmtree(shelf / "film" / "2")
    assert put(shelf).name == "4"


@pytest.mark.parametrize("version", ["", "7", "0", "-1", "1.0", "x", "٣", "9" * 5000, "../1", " 1"])
def test_a_version_that_is_not_there_is_told(shelf: Path, version: str) -> None:
    put(shelf)
    with pytest.raises(AdapterError, match=r"film has no version .*; it has 1"):
        store.find(shelf, f"film@{version}")


def test_a_name_that_is_not_there_is_told(shelf: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter 'film' in the store .*; it holds none"):
        store.find(shelf, "film")
    put(shelf)
    with pytest.raises(AdapterError, match=r"did you mean 'film'\?"):
        store.find(shelf, "films")


def test_what_is_in_the_store_but_no_adapter_is_not_listed(shelf: Path) -> None:
    put(shelf)
    (shelf / "README.md").touch()
    (shelf / "Other").mkdir()
    (shelf / "empty" / "1").mkdir(parents=True)  # a version without a manifest is none
    (shelf / "film" / ".staging-killed").mkdir()
    fill(shelf / "film" / ".staging-killed")
    (shelf / "film" / "notes").mkdir()
    assert store.names(shelf) == ["film"]
    assert store.versions(shelf, "film") == [1]


def test_what_is_not_committed_leaves_nothing(shelf: Path) -> None:
    with store.staged(shelf, "film") as staging:
        fill(staging)
        assert staging.parent == shelf / "film"  # on the same disk, so that a rename is enough
        assert store.names(shelf) == []
    assert list(shelf.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), AdapterError("unfit")])
def test_what_fails_leaves_earlier_versions_alone_and_nothing_else(shelf: Path, error: BaseException) -> None:
    def failing() -> None:
        with store.staged(shelf, "film") as staging:
            fill(staging, "half")
            raise error

    with pytest.raises(type(error)):
        failing()
    assert list(shelf.iterdir()) == []
    put(shelf)
    before = everything(shelf)
    with pytest.raises(type(error)):
        failing()
    assert everything(shelf) == before


def test_a_full_disk_is_told_and_leaves_the_earlier_version_whole(shelf: Path, disk_full: Any) -> None:
    put(shelf)
    before = everything(shelf)

    def saving() -> None:
        with store.staged(shelf, "film") as staging:
            fill(staging, "x" * 100_000)
            store.commit(staging)

    with (
        disk_full(4096),
        pytest.raises(StorageError, match=r"could not be saved in .*; earlier versions are untouched"),
    ):
        saving()
    assert everything(shelf) == before
    assert [path.name for path in (shelf / "film").iterdir()] == ["1"]
    saving()
    assert store.versions(shelf, "film") == [1, 2]


def test_a_full_disk_is_told_when_it_is_safetensors_that_meets_it(shelf: Path, disk_full: Any) -> None:
    import torch

    from pefttune.methods import weights

    def saving() -> None:
        with store.staged(shelf, "film") as staging:
            weights.write(staging, {}, {"a": torch.zeros(50_000)}, "base", None)

    with disk_full(4096), pytest.raises(StorageError, match=r"File too large.*; earlier versions are untouched"):
        saving()
    assert list(shelf.iterdir()) == []


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written to"):
        put(tmp_path / "file")


def test_everybody_may_read_a_version(shelf: Path) -> None:
    folder = put(shelf)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_an_emptied_folder_of_another_process_is_no_error(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two failing runs: between one's look and its removal of the empty folder, the other begins to stage."""
    rmdir = Path.rmdir

    def late(path: Path) -> None:
        (path / ".staging-other").mkdir()
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", late)
    with pytest.raises(RuntimeError, match="mine"), store.staged(shelf, "film"):
        raise RuntimeError("mine")
    assert (shelf / "film" / ".staging-other").is_dir()


COMMITS = """
import json, sys, time
from pathlib import Path
from pefttune import store
assert "torch" not in sys.modules
shelf, number = Path(sys.argv[1]), sys.argv[2]
(shelf.parent / f"ready-{number}").touch()
while not (shelf.parent / "go").exists():
    time.sleep(0.001)
for round in range(10):
    with store.staged(shelf, "film") as staging:
        (staging / "who").write_text(f"{number}:{round}")
        for file in ("README.md", "adapter_config.json", "adapter_model.safetensors"):
            (staging / file).touch()
        store.write_manifest(staging, json.loads(sys.argv[3]))
        print(store.commit(staging).name)
"""


def test_processes_that_commit_at_once_all_succeed(shelf: Path, tmp_path: Path, manifest: dict[str, Any]) -> None:
    command = [sys.executable, "-c", COMMITS, str(shelf)]
    processes = [
        subprocess.Popen([*command, str(n), json.dumps(manifest)], stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    while not all((tmp_path / f"ready-{n}").exists() for n in range(4)):
        assert all(process.poll() is None for process in processes)
    (tmp_path / "go").touch()
    given = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(int(version) for versions in given for version in versions) == list(range(1, 41))
    assert store.versions(shelf, "film") == list(range(1, 41))
    for number, versions in enumerate(given):
        for round_, version in enumerate(versions):
            store.read_manifest(shelf / "film" / version)
            assert (shelf / "film" / version / "who").read_text() == f"{number}:{round_}"
    assert not list((shelf / "film").glob(".staging-*"))
