"""Dequantize once: the function of a 4-bit base without its work in every step.

bitsandbytes computes `x @ dequantize(W).T` anew in each forward and each backward pass. Where memory allows, W is
dequantized once and kept in the compute dtype: the very numbers that bitsandbytes would multiply with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import bitsandbytes
import psutil
import torch
from torch import Tensor, nn

CONTROL_GROUP = Path("/sys/fs/cgroup")
# The weights may take this part of the memory that is free; the rest is for activations, and for others.
PART_OF_FREE_MEMORY = 0.25


def dequantize_if_room(model: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Replace the model's 4-bit layers by dense ones of the same function, if memory allows; whether it was done."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    needed = sum(layer.in_features * layer.out_features for layer in layers.values()) * dtype.itemsize
    if not layers or needed > PART_OF_FREE_MEMORY * _free_bytes(device):
        return False
    for name, layer in layers.items():
        model.set_submodule(name, _dense(layer, dtype))
    return True


@torch.no_grad()
def _dense(layer: Any, dtype: torch.dtype) -> nn.Linear:
    weight = weight_of(layer).to(dtype)
    dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    dense.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        dense.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    return dense.eval()


def weight_of(layer: nn.Linear) -> Tensor:
    """The weight (O, I) that a frozen layer, quantized or not, multiplies with."""
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        weight: Tensor = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return weight.view(layer.out_features, layer.in_features)
    if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
        scale = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB  # it moves when the layer first runs
        return cast("Tensor", bitsandbytes.functional.int8_vectorwise_dequant(layer.weight.data, scale))
    return layer.weight.data


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _free_in_container())


def _free_in_container() -> int:
    """What a container's limit leaves (Linux control groups); the host's free memory says nothing of it."""
    limit, used = (CONTROL_GROUP / name for name in ("memory.max", "memory.current"))
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # no group, or the limit is "max"
        return sys.maxsize
