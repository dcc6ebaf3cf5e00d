"""How far a model's confidence is from how often it is right."""

from __future__ import annotations

from collections.abc import Sequence

BINS = 15


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error over 15 bins (Guo et al. 2017, arXiv:1706.04599)."""
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    return float(binary_calibration_error(torch.tensor(confidences), torch.tensor(right), n_bins=BINS))
