"""Hidden states kept on disk: in the dtype they are computed in, so that nothing is rounded.

A file is named by all that its states depend on, written aside and renamed when whole, and checked by its hash when
opened: one that is cut short or belongs to something else is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
# All caches together take no more; the one that was not used for longest goes first.
BYTES_AT_MOST = 20 * 2**30
# A file begun longer ago than this is no longer being written.
SECONDS_OF_A_RUN = 86_400
# What must stay free on the disk.
BYTES_LEFT_FREE = 2**30


def kept(
    path: Path,
    shape: tuple[int, int],
    dtype: torch.dtype,
    fill_in: Callable[[Tensor], None],
    notice: Callable[[str], None],
) -> Tensor | None:
    """The states at `path`, which `fill_in` writes if they are not there yet; None, after a notice, where the disk has
    no room."""
    if (states := _open(path, shape, dtype)) is not None:
        return states
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    size = shape[0] * shape[1] * dtype.itemsize
    try:
        if told := _no_room(path.parent, size):
            notice(told)
            return None
        _allocate(partial, size)
        states = _map(partial, shape, dtype)
        fill_in(states)
        path.with_suffix(".json").write_text(json.dumps({"sha256": _sha256(partial)}) + "\n", encoding="utf-8")
        partial.replace(path)  # the map goes with it
    except OSError as error:
        notice(f"the frozen layers are run again in every pass: {path.parent} cannot be written: {error.strerror}")
        return None
    finally:
        _remove(partial)
    return states


def key_of(base_digest: str, layer: int | str, model: Any, max_tokens: int, contents: Sequence[Any]) -> str:
    """Names everything that the states at `layer` depend on: also what they are computed by, whose last bits may
    differ."""
    versions = [version(name) for name in ("pefttune", "torch", "transformers", "bitsandbytes")]
    computed = [str(model.dtype), model.device.type, max_tokens, torch.get_num_threads(), versions]
    return hashlib.sha256(json.dumps([FORMAT, base_digest, layer, computed, contents]).encode()).hexdigest()[:32]


def _open(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """The states at `path` if they are whole, else None."""
    try:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
        if path.stat().st_size != shape[0] * shape[1] * dtype.itemsize or _sha256(path) != told:
            return None
        path.touch()  # used now: others go first when room is needed
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _map(path, shape, dtype)


def _allocate(path: Path, size: int) -> None:
    """Claim the room: written through a map, a disk that fills up would kill the process. Raises OSError."""
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _map(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    flat = torch.from_file(str(path), shared=True, size=shape[0] * shape[1], dtype=dtype)
    return flat.view(shape)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it was never made, or cannot be reached any more
        path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_room(folder: Path, needed: int) -> str | None:
    """Why there is no room for `needed` bytes; None if there is, after the oldest caches have gone if they must."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.partial"):  # of a run that was killed
        if time.time() - left.stat().st_mtime > SECONDS_OF_A_RUN:
            left.unlink(missing_ok=True)
    kept = {path: path.stat() for path in folder.glob("*.bin")}
    taken = sum(state.st_size for state in kept.values())
    free = shutil.disk_usage(folder).free - BYTES_LEFT_FREE
    if needed > min(free + taken, BYTES_AT_MOST):
        return (
            f"the frozen layers are run again in every pass: their states need {needed / 2**20:,.0f} MiB in {folder}, "
            f"and {max(0, min(free + taken, BYTES_AT_MOST)) / 2**20:,.0f} MiB are to be had"
        )
    for path in sorted(kept, key=lambda path: kept[path].st_mtime):
        if needed <= min(free, BYTES_AT_MOST - taken):
            break
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        free, taken = free + kept[path].st_size, taken - kept[path].st_size
    return None
