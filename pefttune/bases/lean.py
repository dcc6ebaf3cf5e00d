"""Frozen norms and gates that keep less for the backward pass, and do less in it.

Autograd keeps float32 copies of what enters a norm, and the product of a gate, because their weights might learn. In a
frozen base they do not: the input alone is enough. A module is replaced only by one that gives the same bits on a trial
input; every other stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

ROWS_TRIED = 8


def make_lean(model: nn.Module) -> int:
    """Replace norms and gated blocks of the frozen `model` where that changes nothing; how many were."""
    replaced = 0
    for name, module in list(model.named_modules()):
        lean = _lean(module)
        if lean is not None and _same(module, lean):
            model.set_submodule(name, lean.eval())
            replaced += 1
    return replaced


class LeanRMSNorm(nn.Module):
    """RMSNorm (arXiv:1910.07467) with a frozen weight, as Llama computes it: in float32, the weight in x's dtype."""

    def __init__(self, weight: nn.Parameter, variance_epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """weight · x / rms(x)."""
        normed: Tensor = _RMSNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return normed


class LeanGatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (SwiGLU, arXiv:2002.05202) of a frozen base. The projections keep their names."""

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape that ends with the width of the model, the same shape."""
        gated: Tensor = _SiluGate.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
        down: Tensor = self.down_proj(gated)
        return down


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float().mul_(scale)
        pull = (grad * weight).float()
        along = (pull * normed).mean(-1, keepdim=True)
        return pull.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), None, None


class _SiluGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        dgate = torch.ops.aten.silu_backward(grad * up, gate)
        return dgate, silu(gate).mul_(grad)


def _lean(module: nn.Module) -> nn.Module | None:
    """The lean form of a module that looks as if it had one."""
    epsilon = getattr(module, "variance_epsilon", None)
    if isinstance(epsilon, float) and [name for name, _ in module.named_parameters()] == ["weight"]:
        return LeanRMSNorm(module.weight, epsilon)  # type: ignore[arg-type]
    parts = dict(module.named_children())
    if parts.pop("act_fn", None) is not None and parts.keys() == {"gate_proj", "up_proj", "down_proj"}:
        return LeanGatedMLP(**parts)
    return None


@torch.no_grad()
def _same(module: nn.Module, lean: nn.Module) -> bool:
    """Whether both give the same bits."""
    width = lean.weight.shape[-1] if isinstance(lean, LeanRMSNorm) else lean.gate_proj.in_features  # type: ignore[union-attr]
    parameter = next(module.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    x = torch.randn(ROWS_TRIED, width, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    x = torch.cat([x, 30 * x]).to(parameter.device, dtype)  # some clamp what is large
    try:
        return torch.equal(module(x), lean(x))
    except (TypeError, RuntimeError):
        return False
