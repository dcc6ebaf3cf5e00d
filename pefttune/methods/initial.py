"""Initial values of LoRA's A (r, I) and B (O, r), by the words that a recipe and PEFT have for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Initial = Callable[[nn.Linear, int, float, torch.dtype], tuple[Tensor, Tensor]]
"""A and B of a layer for a rank and a scale. The dtype is that in which the layer computes."""


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
