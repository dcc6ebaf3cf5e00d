"""Peak memory of this process, or of the GPU, and what it is made of."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

MIB = 2**20
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class MemorySplit:
    """Peak memory of training in MiB, and its parts. `activations` is what the other parts do not explain."""

    device: str
    peak_mib: float
    libraries_mib: float
    weights_mib: float
    adapter_and_optimizer_mib: float

    @property
    def activations_mib(self) -> float:
        """Activations, gradients on their way, and temporary buffers."""
        explained = self.libraries_mib + self.weights_mib + self.adapter_and_optimizer_mib
        return max(0.0, self.peak_mib - explained)


def resident_mib(device: torch.device) -> float:
    """Memory in use now: of the GPU's allocator, or resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MIB
    return float(psutil.Process().memory_info().rss / MIB)


def reset_peak(device: torch.device) -> None:
    """Forget earlier peaks (loading a base needs more than training it)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_mib(device: torch.device) -> float:
    """The highest memory use since the last reset; on systems without /proc since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
