"""The leading directions of a layer's inputs, from a stream of them, in little memory.

Shapes: R rows (tokens), I the width of the input, L columns of the sketch, k directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Columns for each direction that is wanted: the more, the nearer to the exact ones.
COLUMNS_PER_DIRECTION = 4
# What is smaller than this part of the inputs' squares is noise of the arithmetic.
NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class Spectrum:
    """The leading directions (k, I) of inputs about their mean, and the part of their variance that each explains."""

    components_kI: Tensor
    explained_k: tuple[float, ...]


@dataclass(frozen=True)
class SecondMoments:
    """The mean of x·xᵀ over inputs x, in the measure that makes the mean of its diagonal 1: for its leading directions
    (K, I) what it is along them. The inputs have no others, or these matter little."""

    directions_KI: Tensor
    moments_K: Tensor


class Sketch:
    """Sums what is needed of inputs, I·L numbers, for the leading k directions of their covariance.

    The covariance C is never made: only C·Ω is, for a fixed Ω (I, L) of orthonormal columns, and C is then about
    CΩ (ΩᵀCΩ)⁺ (CΩ)ᵀ (Nyström; Tropp et al., arXiv:1706.05736). With L = I, as for narrow layers, that is exact.
    """

    def __init__(self, width: int, k: int, device: torch.device) -> None:
        n_columns = min(width, COLUMNS_PER_DIRECTION * k)
        self._k = min(k, width)
        self._omega_IL = _omega(width, n_columns).to(device)
        self._products_IL = torch.zeros_like(self._omega_IL)
        self._sum_I = self._omega_IL.new_zeros(width)
        self._squares, self._n = self._omega_IL.new_zeros(()), 0
        self._spectrum: Spectrum | None = None

    def add(self, x_RI: Tensor) -> None:
        """More inputs. In float64: a few coordinates of a transformer's inputs are a thousand times the others."""
        x_RI = x_RI.double()
        self._products_IL += x_RI.t() @ (x_RI @ self._omega_IL)
        self._sum_I += x_RI.sum(0)
        self._squares += x_RI.square().sum()
        self._n += len(x_RI)
        self._spectrum = None

    def spectrum(self) -> Spectrum:
        """That of all inputs so far; fewer directions where the inputs have no more. Decomposed once."""
        if self._spectrum is None:
            self._spectrum = self._decomposed()
        return self._spectrum

    def _decomposed(self) -> Spectrum:
        n, mean_I = max(self._n, 1), self._sum_I / max(self._n, 1)
        y_IL = self._products_IL - n * torch.outer(mean_I, mean_I @ self._omega_IL)
        total = float(self._squares - n * mean_I.square().sum())
        u_IK, moments_K = self._eigen(y_IL)
        leading = u_IK[:, : self._k].t().float().cpu().contiguous()
        return Spectrum(leading, tuple((moments_K[: self._k] / total).tolist()))

    def second_moments(self) -> SecondMoments:
        """Those of all inputs so far, about 0, along all directions that the sketch has."""
        u_IK, moments_K = self._eigen(self._products_IL)
        return SecondMoments(u_IK.t().float(), (moments_K * len(u_IK) / self._squares).float())

    def _eigen(self, y_IL: Tensor) -> tuple[Tensor, Tensor]:
        """Directions (I, K) of the matrix whose products with Ω are y, and what it is along them, greatest first."""
        core_L, turn_LL = torch.linalg.eigh(self._omega_IL.t() @ y_IL)
        kept = core_L > NEGLIGIBLE * self._squares
        u_IK, s_K, _ = torch.linalg.svd(y_IL @ turn_LL[:, kept] * core_L[kept].rsqrt(), full_matrices=False)
        return u_IK, s_K.square()


def _omega(width: int, n_columns: int) -> Tensor:
    """Orthonormal columns (width, n_columns), the same for each layer of that width."""
    if n_columns == width:
        return torch.eye(width, dtype=torch.float64)
    chance = torch.Generator().manual_seed(width)
    normal_IL = torch.randn(width, n_columns, dtype=torch.float64, generator=chance)
    columns_IL: Tensor = torch.linalg.qr(normal_IL).Q
    return columns_IL
