"""Frozen norms and gates that keep less for the backward pass, and do less in it.

Autograd keeps float32 copies of what enters a norm, and the product of a gate: the input alone is enough. A module is
replaced only by one that gives the same bits on a trial input; every other stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """RMSNorm (arXiv:1910.07467) as Llama computes it: in float32, the weight in x's dtype. The weight's gradient is
    computed where an adapter lets a copy of it learn."""

    def __init__(self, weight: nn.Parameter, variance_epsilon: float) -> None:
        super().__init__()
        self.weight, self.width = weight, weight.shape[-1]
        self.variance_epsilon = variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """weight · x / rms(x)."""
        return _rms_norm(x, self.weight, self.variance_epsilon)


class LeanGatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (SwiGLU, arXiv:2002.05202) of a frozen base. The projections keep their names."""

    def __init__(self, gate_proj: nn.Linear, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj
        self.width = gate_proj.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape that ends with the width of the model, the same shape."""
        down: Tensor = self.down_proj(_silu_gate(self.gate_proj(x), self.up_proj(x)))
        return down


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return weight.to(x.dtype) * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float().mul_(scale)
        learned = (grad.float() * normed).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        pull = (grad * weight.to(grad.dtype)).float()
        along = (pull * normed).mean(-1, keepdim=True)
        return pull.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), learned, None


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


# torch gives `apply` no types.
_rms_norm: Callable[[Tensor, Tensor, float], Tensor] = _RMSNorm.apply
_silu_gate: Callable[[Tensor, Tensor], Tensor] = _SiluGate.apply


def _lean(module: nn.Module) -> LeanRMSNorm | LeanGatedMLP | None:
    """The lean form of a module that looks as if it had one."""
    epsilon = getattr(module, "variance_epsilon", None)
    if isinstance(epsilon, float) and (weights := dict(module.named_parameters())).keys() == {"weight"}:
        return LeanRMSNorm(weights["weight"], epsilon)
    parts = dict(module.named_children())
    if parts.pop("act_fn", None) is not None and parts.keys() == {"gate_proj", "up_proj", "down_proj"}:
        gate = parts["gate_proj"]
        if isinstance(gate, nn.Linear):
            return LeanGatedMLP(gate, parts["up_proj"], parts["down_proj"])
    return None


@torch.no_grad()
def _same(module: nn.Module, lean: LeanRMSNorm | LeanGatedMLP) -> bool:
    """Whether both give the same bits."""
    parameter = next(module.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    x = torch.randn(ROWS_TRIED, lean.width, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, 30 * x]).to(parameter.device, dtype)  # some clamp what is large
    # T5 keeps one layer in float32, and its norm alone brings what comes of it back into the dtype of the others.
    tried = [x, x.float()] if isinstance(lean, LeanRMSNorm) else [x]
    try:
        return all(torch.equal(module(each), lean(each)) for each in tried)
    except (TypeError, RuntimeError):
        return False
