"""A job done by a program in a fresh process, its threads pinned."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.job import Job, Result
from benchmarks.peers import OURS, Peer
from pefttune.environment import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 12
# Freed memory that goes back to the host has to be faulted in again, and on some virtual machines that is most of a
# step. pefttune keeps it when it loads a base; the peers get the same by glibc's variables, so that it is no merit.
KEPT_BYTES = str(1 << 30)
KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": KEPT_BYTES, "MALLOC_TRIM_THRESHOLD_": KEPT_BYTES}


def run_program(peer: Peer, job: Job, python: str | None = None, cuda: bool = False, keep_freed: bool = True) -> Result:
    """What the peer's program measured. Raises BenchmarkError when it cannot be run or fails."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        told, measured = Path(folder) / "job.json", Path(folder) / "result.json"
        replace(job, settings={**job.settings, **peer.settings}).write(told)
        program = f"benchmarks.programs.{peer.program}"
        command = [str(Path(python or sys.executable).absolute()), "-m", program, str(told), str(measured)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment(job.threads, cuda, keep_freed),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise BenchmarkError(f"{command[0]} cannot be started: {error.strerror}") from None
        if done.returncode or not measured.exists():
            raise BenchmarkError(_failure(peer, done.returncode, done.stdout))
        return Result.read(measured)


def alternate(ours: Callable[[], Result], peer: Callable[[], Result], rounds: int) -> list[tuple[Result, Result]]:
    """Ours, peer, peer, ours, ours, peer, …: pairs that saw the same machine, neither side always the first."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            theirs, mine = peer(), ours()
        else:
            mine, theirs = ours(), peer()
        pairs.append((mine, theirs))
    return pairs


def ours(job: Job, cuda: bool = False) -> Result:
    """What pefttune's own program measured; its allocator is its own affair."""
    return run_program(OURS, job, cuda=cuda, keep_freed=False)


def environment(threads: int, cuda: bool, keep_freed: bool) -> dict[str, str]:
    """The environment of a program: pinned threads, no network, no GPU unless asked for. What pefttune sets for the
    libraries under torch is set for everybody, so that it is no merit either."""
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
    }
    device = {} if cuda else {"CUDA_VISIBLE_DEVICES": ""}
    kept = KEEP_FREED if keep_freed else {}
    return {**SETTINGS, **os.environ, "PYTHONPATH": str(ROOT), **pinned, **quiet, **device, **kept}


def _failure(peer: Peer, code: int, output: str) -> str:
    if missing := [line for line in output.splitlines() if line.startswith("ModuleNotFoundError")]:
        return f"{peer.program}: {missing[-1]}. {peer.install}"
    last = "\n  ".join(output.strip().splitlines()[-LAST_LINES:])
    return f"{peer.program} ended with {code}:\n  {last}"
