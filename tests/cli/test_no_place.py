"""Places that cannot be written to, and full disks: told, and what was there is untouched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def test_a_store_that_cannot_be_written(refused: Any, train: Any, tmp_path: Path) -> None:
    """Told before training. (A file in its place refuses root as well, which a mode does not.)"""
    (tmp_path / "file").write_text("kept")
    done = train(f"output.store={tmp_path}/file", "--json")
    refused(done, 1, "StorageError", f"the store {tmp_path}/file/tiny cannot be written to: Not a directory")
    assert ("base:" in done.err, (tmp_path / "file").read_text()) == (False, "kept")
    refused(train(f"output.runs={tmp_path}/file", "--json"), 1, "StorageError", "the run folder ", "cannot be made")


# What is left of a version that cannot be written. The sizes: the log begins with 500 bytes, the manifest has 6 KB, the
# weights 20 KB, the figure 50 KB.


@pytest.mark.parametrize("room", [100, 10_000, 30_000])
def test_a_full_disk_in_the_run_folder(
    refused: Any, tree: Any, train: Any, copied: Path, disk_full: Any, tmp_path: Path, room: int
) -> None:
    before = tree(tmp_path / "adapters")
    with disk_full(room):
        done = train("--json")
    refused(done, 1, "StorageError", str(tmp_path / "runs"))
    assert tree(tmp_path / "adapters") == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("room", [1000, 10_000, 30_000])
def test_a_full_disk_at_save(
    refused: Any,
    tree: Any,
    train: Any,
    copied: Path,
    disk_full: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    """Room runs out inside of the staging folder: weights, figure, and whatever a thousand bytes do not hold."""
    from pefttune import store

    before, real, left = tree(tmp_path / "adapters"), store.staged, []

    @contextmanager
    def staged(*arguments: Any) -> Iterator[Path]:
        with real(*arguments) as staging, disk_full(room):
            yield staging
            left.append(staging)

    monkeypatch.setattr(store, "staged", staged)
    done = train("--json")
    refused(done, 1, "StorageError", "could not be saved in", "tiny", "earlier versions are untouched")
    assert len(left) == 1  # the first, which only asks whether the store can be written to
    assert tree(tmp_path / "adapters") == before


def test_a_full_disk_while_predicting(
    command: Any, shop: Any, known_bases: Path, disk_full: Any, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("old")
    arguments = ["predict", "tiny", "--input", shop.reviews, "--output", "out.csv", "--store", shop.store]
    with disk_full(1000):
        done = command(*arguments)
    assert done.code == 1
    assert "out.csv could not be written" in done.err
    assert ((tmp_path / "out.csv").read_text(), list(tmp_path.glob(".*.part"))) == ("old", [])
