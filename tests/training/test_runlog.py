"""The run folder and its log."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune.errors import StorageError
from pefttune.training import MemorySplit, logging_to, new_run_folder, peak_mib, reset_peak, resident_mib

CPU = torch.device("cpu")


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folders = [new_run_folder(tmp_path / "runs", "film") for _ in range(4)]
    assert len(set(folders)) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "runs" / "film"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(StorageError, match=r"the run folder .* cannot be made"):
        new_run_folder(tmp_path / "runs", "film")


def test_every_event_is_a_line_at_once(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    notify = logging_to(tmp_path, told.append)
    for number in range(3):
        notify({"event": "step", "step": number, "text": "Ł🙂\nx"})
        lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(number + 1))
    assert json.loads(lines[0])["text"] == "Ł🙂\nx"
    assert json.loads(lines[0])["at_s"] >= 0
    assert told == [{"event": "step", "step": number, "text": "Ł🙂\nx"} for number in range(3)]


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path, disk_full: Any) -> None:
    notify = logging_to(tmp_path, lambda event: None)
    with disk_full(1000), pytest.raises(StorageError, match=r"the log .*log\.jsonl cannot be written"):
        notify({"event": "notice", "message": "x" * 5000})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks can be reset on Linux only")
def test_the_peak_sees_what_was_freed_and_forgets_it_when_told() -> None:
    reset_peak(CPU)
    before = peak_mib(CPU)
    with mmap.mmap(-1, 64 * 2**20) as block:  # asked of the system itself: an allocator may keep what is freed
        for _ in range(64):
            block.write(bytes(2**20))
    assert peak_mib(CPU) > before + 60
    reset_peak(CPU)
    assert peak_mib(CPU) < before + 32
    assert 0 < resident_mib(CPU) <= peak_mib(CPU) + 1


def test_activations_are_what_nothing_else_explains() -> None:
    assert MemorySplit("cpu", 100.0, 50.0, 20.0, 5.0).activations_mib == 25.0
    assert MemorySplit("cpu", 60.0, 50.0, 20.0, 5.0).activations_mib == 0.0
