"""Initial values of LoRA's A (r, I) and B (O, r), by the words that a recipe and PEFT have for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pefttune.errors import BaseError
from pefttune.methods.spectrum import SecondMoments, Spectrum

# What CorDA adds to the diagonal of the inputs' covariance, of the mean of that diagonal (PEFT's value).
DAMPING = 0.01
# Rounded weights differ by a tenth, in 4 bits; other weights by more than all.
LARGEST_LOSS = 0.5

Initial = Callable[[nn.Linear, int, float, torch.dtype], tuple[Tensor, Tensor]]
"""A and B of a layer for a rank and a scale. The dtype is that in which the layer computes."""
Beginning = Callable[[str, nn.Linear, int, float], tuple[Tensor, Tensor]]
"""A and B of the layer of a name for a rank and a scale, where more is asked than the layer."""


def default(linear: nn.Linear, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """B is zero, and A as torch begins a linear layer."""
    a = torch.empty(r, linear.in_features, device=linear.weight.device)
    return nn.init.kaiming_uniform_(a, a=math.sqrt(5)), _zero(linear, r)


def gaussian(linear: nn.Linear, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """B is zero, and A normal."""
    a = torch.empty(r, linear.in_features, device=linear.weight.device)
    return nn.init.normal_(a, std=1 / r), _zero(linear, r)


def pissa(linear: nn.Linear, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The principal components of the weight (PiSSA, arXiv:2404.02948)."""
    u_OK, s_K, v_KI = torch.linalg.svd(dense_weight(linear, dtype), full_matrices=False)
    return _halves(u_OK[:, :r], s_K[:r], v_KI[:r], scale)


def pissa_niter_16(linear: nn.Linear, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Those of `pissa`, nearly, in a fraction of the time: a randomized SVD of 16 iterations."""
    u_Or, s_r, v_Ir = torch.svd_lowrank(dense_weight(linear, dtype), r, niter=16)
    return _halves(u_Or, s_r, v_Ir.t(), scale)


def olora(linear: nn.Linear, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The first columns and rows of the weight's QR decomposition (OLoRA, arXiv:2406.01775)."""
    q_OK, r_KI = torch.linalg.qr(dense_weight(linear, dtype))
    return r_KI[:r].contiguous(), q_OK[:, :r].contiguous()


@torch.no_grad()
def eva(linear: nn.Linear, inputs: Spectrum, r: int) -> tuple[Tensor, Tensor]:
    """B is zero, and A the leading directions of the inputs (EVA, arXiv:2410.07170); random where they have fewer."""
    a_rI, b_Or = default(linear, r, 1.0, torch.float32)
    leading = inputs.components_kI[:r]
    a_rI[: len(leading)] = leading
    return a_rI, b_Or


@torch.no_grad()
def corda(linear: nn.Linear, inputs: SecondMoments, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The components of the weight W that give most of its outputs for such inputs (CorDA, arXiv:2406.05223, in its
    instruction-previewed mode): of W·C, C being the inputs' covariance, taken back by C⁻¹. Where the inputs have no
    directions these are PiSSA's.

    With W·C = U·S·Vᵀ the r components are U·S·Vᵀ·C⁻¹ = U·Uᵀ·W, so that nothing is inverted.
    """
    weight_OI, directions_KI = dense_weight(linear, dtype), inputs.directions_KI
    weighted_OI = (weight_OI @ directions_KI.t() * inputs.moments_K) @ directions_KI + DAMPING * weight_OI
    u_OK, s_K, _ = torch.linalg.svd(weighted_OI, full_matrices=False)
    floats = torch.finfo(s_K.dtype)
    root_r = (s_K[:r].clamp_min(floats.eps * float(s_K[0]) + floats.tiny) / scale).sqrt()
    u_Or = u_OK[:, :r]
    return (u_Or / (root_r * scale)).t() @ weight_OI, u_Or * root_r


@torch.no_grad()
def loftq(linear: nn.Linear, original_OI: Tensor, r: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The principal components of what quantization took away from the original weight (LoftQ, arXiv:2310.08659, one
    step of it, for the base stays as it is); where nothing was taken, as `default`. Raises BaseError for a weight that
    this cannot have been."""
    lost_OI = original_OI - dense_weight(linear, dtype)
    if lost_OI.norm() > LARGEST_LOSS * original_OI.norm():
        raise BaseError(
            "adapter.init_lora_weights: the weights in the base's files are not those that were quantized, for "
            "transformers changes them when it reads this architecture, so that `loftq` cannot tell what was lost; "
            "`pissa` or `default` need no other weights"
        )
    u_OK, s_K, v_KI = torch.linalg.svd(lost_OI, full_matrices=False)
    a_rI, b_Or = _halves(u_OK[:, :r], s_K[:r], v_KI[:r], scale)
    nothing_r = s_K[:r] <= torch.finfo(s_K.dtype).eps * original_OI.norm()  # A and B both zero would never learn
    a_rI[nothing_r] = default(linear, r, scale, dtype)[0][nothing_r].to(a_rI)
    return a_rI, b_Or


INITIAL: dict[str, Initial] = {
    "default": default,
    "gaussian": gaussian,
    "pissa": pissa,
    "pissa_niter_16": pissa_niter_16,
    "olora": olora,
}


@torch.no_grad()
def dense_weight(linear: nn.Linear, dtype: torch.dtype) -> Tensor:
    """The weight (O, I) in float32; of a quantized layer what it makes of each input alone, however it keeps it."""
    if type(linear) is nn.Linear:
        return linear.weight.float()
    alone_II = torch.eye(linear.in_features, dtype=dtype, device=linear.weight.device)
    bias_1O = linear(torch.zeros_like(alone_II[:1]))
    weight_IO: Tensor = linear(alone_II) - bias_1O
    return weight_IO.t().float()


def _halves(u_Or: Tensor, s_r: Tensor, v_rI: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    root_r = (s_r / scale).sqrt()
    return root_r.diag() @ v_rI, u_Or @ root_r.diag()


def _zero(linear: nn.Linear, r: int) -> Tensor:
    return torch.zeros(linear.out_features, r, device=linear.weight.device)
