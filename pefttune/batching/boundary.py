"""The boundary cache: what enters the lowest adapted layer, computed once for each example and kept on disk.

The layers below never change, so neither does this: later epochs, evaluations and runs begin there. States are kept in
the dtype they are computed in, so nothing is rounded. A cache is named by all that it depends on, written aside and
renamed when whole, and checked by its hash when opened: one that is cut short or belongs to something else is made
anew.
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
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pefttune.batching.batch import Batch, Entering, chosen_answers
from pefttune.batching.forward import hidden_rows, inputs_of, logits_are_linear
from pefttune.batching.layers import decoder_layers, entering
from pefttune.batching.plan import fill
from pefttune.batching.ragged import ragged
from pefttune.batching.tree import shared_length
from pefttune.data import Example

FORMAT = 1
# All caches together take no more; the one that was not used for longest goes first.
BYTES_AT_MOST = 20 * 2**30
# A file begun longer ago than this is no longer being written.
SECONDS_OF_A_RUN = 86_400
# What must stay free on the disk.
BYTES_LEFT_FREE = 2**30


@dataclass(frozen=True)
class Boundary:
    """States (rows, D) of a list of examples: those of the trunk all of them share, then each example's own."""

    layer: int
    states: Tensor
    trunk: int
    starts: tuple[int, ...]

    def enter(self, batch: Batch, indices: Sequence[int]) -> Batch:
        """The ragged batch of the examples `indices`, told what enters the layer."""
        runs = []
        for source in batch.sources:
            for row, length in self._rows(indices[source.examples[0]], source.offset, source.length):
                runs.append(self.states[row : row + length])
        return replace(batch, entering=Entering(self.layer, torch.cat(runs).to(batch.ids_BT.device)))

    def _rows(self, example: int, offset: int, length: int) -> list[tuple[int, int]]:
        """Where `length` states from `offset` on lie: partly in the trunk, partly in the example's own."""
        in_trunk = min(length, max(0, self.trunk - offset))
        own = (self.starts[example] + offset + in_trunk - self.trunk, length - in_trunk)
        return [run for run in ((offset, in_trunk), own) if run[1]]

    def keep(self, batch: Batch, indices: Sequence[int], hidden_TD: Tensor) -> None:
        """Write the states of a batch."""
        at = 0
        for source in batch.sources:
            for example in source.examples:
                done = at
                for row, length in self._rows(indices[example], source.offset, source.length):
                    self.states[row : row + length] = hidden_TD[done : done + length]
                    done += length
            at += source.length


def open_boundary(
    folder: Path,
    model: Any,
    layer: int,
    examples: Sequence[Example],
    *,
    every_answer: bool,
    causal: bool,
    base_digest: str,
    max_tokens: int,
    notice: Callable[[str], None],
    progress: Callable[[int], None],
) -> Boundary | None:
    """The boundary cache of these examples in `folder`, filled if it is not there yet.

    None, after a notice, where the model cannot be cut at `layer` or the disk has no room: then every pass begins at
    the first layer, with the same result. `progress` is told how many examples are done.
    """
    if not _can_be_cut(model, layer, examples, causal):
        notice("the frozen layers are run again in every pass: this base cannot be entered at a layer")
        return None
    fed = [_fed(example, every_answer) for example in examples]
    contents = [(example.prompt, chosen_answers(example, every_answer)) for example in examples]
    # Where a token sees what follows it, what is the same in all prompts becomes something else in each.
    trunk = _shared_by_all([example.prompt for example in examples]) if causal else 0
    starts, rows = [], trunk
    for tokens in fed:
        starts.append(rows)
        rows += len(tokens) - trunk
    shape = (rows, model.config.get_text_config().hidden_size)
    path = folder / f"{_key(base_digest, layer, model, max_tokens, contents)}.bin"
    boundary = Boundary(layer, torch.empty(0), trunk, tuple(starts))
    if (states := _open(path, shape, model.dtype)) is not None:
        return replace(boundary, states=states)
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    try:
        if told := _no_room(folder, shape[0] * shape[1] * model.dtype.itemsize):
            notice(told)
            return None
        _allocate(partial, shape[0] * shape[1] * model.dtype.itemsize)
        boundary = replace(boundary, states=_map(partial, shape, model.dtype))
        _run_through(boundary, model, examples, every_answer, causal, max_tokens, progress)
        path.with_suffix(".json").write_text(json.dumps({"sha256": _sha256(partial)}) + "\n", encoding="utf-8")
        partial.replace(path)  # the map goes with it
    except OSError as error:
        notice(f"the frozen layers are run again in every pass: {folder} cannot be written: {error.strerror}")
        return None
    finally:
        _remove(partial)
    return boundary


def _run_through(
    boundary: Boundary,
    model: Any,
    examples: Sequence[Example],
    every_answer: bool,
    causal: bool,
    max_tokens: int,
    progress: Callable[[int], None],
) -> None:
    """Run all examples through the frozen layers and keep what comes out."""
    done = 0
    for indices in fill(examples, range(len(examples)), max_tokens, every_answer=every_answer):
        batch = ragged([examples[i] for i in indices], every_answer=every_answer, causal=causal, device=model.device)
        boundary.keep(batch, indices, entering(model, boundary.layer, inputs_of(batch)).cpu())
        progress(done := done + len(indices))


def _fed(example: Example, every_answer: bool) -> tuple[int, ...]:
    """The tokens that the model reads of an example, in the order of `Source.offset`."""
    return (*example.prompt, *(t for answer in chosen_answers(example, every_answer) for t in answer[:-1]))


def _shared_by_all(prompts: Sequence[tuple[int, ...]]) -> int:
    return shared_length(min(prompts), max(prompts)) if len(prompts) > 1 else 0


def _key(base_digest: str, layer: int, model: Any, max_tokens: int, contents: Sequence[Any]) -> str:
    """Names everything that the states depend on: also what they are computed by, whose last bits may differ."""
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


@torch.no_grad()
def _can_be_cut(model: Any, layer: int, examples: Sequence[Example], causal: bool) -> bool:
    """Whether the rest of the model, entered with what its lower layers give, gives what the whole model does."""
    if decoder_layers(model) is None or not logits_are_linear(model):
        return False
    batch = ragged(examples[:2], every_answer=True, causal=causal, device=model.device)
    try:
        upper = replace(batch, entering=Entering(layer, entering(model, layer, inputs_of(batch))))
        return torch.equal(hidden_rows(model, upper), hidden_rows(model, batch))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False


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
