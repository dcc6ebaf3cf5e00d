"""What this machine computes with: its device, and the dtype it multiplies fastest, measured rather than guessed."""

from __future__ import annotations

import ctypes
import time

import torch

from pefttune.errors import BaseError

# bfloat16 must win by more than timing noise before precision is given up for it. Native support wins 4-fold
# (AVX512-BF16), emulation loses 2-fold or more, so nothing real lies near the threshold.
WORTHWHILE_SPEEDUP = 1.3

# mallopt(3): sizes from which memory is mapped apart, and from which free memory is given back.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let malloc keep the memory that tensors free instead of giving it back to the system after each operation.

    Otherwise each large tensor is mapped, faulted in page by page and unmapped again, which is dear on a virtual
    machine whose host takes freed pages away (docs/LOG.md). Only glibc has this; elsewhere it does nothing. It holds
    for the whole process of whoever loads a base.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):  # no glibc: macOS, musl, Windows
        return
    malloc_trim(0)  # what loading the base left behind would only be kept for nothing
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def choose_device(wanted: str) -> torch.device:
    """The device to use for `auto`, `cpu` or `cuda`. Raises BaseError when `cuda` is asked for and missing."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BaseError("base.device: 'cuda' is asked for, but torch sees no CUDA device here; use 'auto' or 'cpu'")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The compute dtype and, in a few words, why: asked for, or how the two candidates compared here."""
    if wanted != "auto":
        return getattr(torch, wanted), "asked for"
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "native on this GPU") if native else (torch.float16, "this GPU has no bfloat16")
    speedup = _seconds(torch.float32) / _seconds(torch.bfloat16)
    chosen = torch.bfloat16 if speedup > WORTHWHILE_SPEEDUP else torch.float32
    return chosen, f"bfloat16 multiplies {speedup:.1f} times as fast as float32 here"


def _seconds(dtype: torch.dtype, tries: int = 5) -> float:
    """Best time of a few matrix products of a training step's size."""
    rows, weight = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        rows @ weight
        best = min(best, time.perf_counter() - start)
    return best
