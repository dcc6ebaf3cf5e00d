"""Bottleneck adapters (arXiv:1902.00751, arXiv:2005.00247, arXiv:2110.04366): two small layers with a non-linearity
between, whose output is added to that of attention or of the feed-forward part. PEFT has none.

Weights are float32 masters, computed in the dtype of what they read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu

from pefttune.errors import BaseError
from pefttune.methods.blocks import places_of
from pefttune.methods.hooked import HookedAdapter
from pefttune.methods.places import path_in_class
from pefttune.recipe.adapters import Bottleneck

NON_LINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu, "silu": silu, "tanh": torch.tanh}
SCALING_OF_PARALLEL = 4.0  # arXiv:2110.04366


class BottleneckLayer(nn.Module):
    """An adapter at one place, frozen, in eval mode, without effect: `adapter_up` is zero. Its parameters are named as
    AdapterHub's are. Shapes: R rows, D their width, m the bottleneck's."""

    def __init__(self, width: int, inner: int, non_linearity: str, dropout: float, device: torch.device) -> None:
        super().__init__()
        down, up = nn.Linear(width, inner, device=device), nn.Linear(inner, width, device=device)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))  # as LoRA's A, and the others zero: arXiv:2110.04366
        for parameter in (down.bias, up.weight, up.bias):
            nn.init.zeros_(parameter)
        self.adapter_down, self.adapter_up = nn.Sequential(down), up
        self._non_linearity, self._dropout = NON_LINEARITIES[non_linearity], nn.Dropout(dropout)
        self.eval().requires_grad_(False)

    def forward(self, x_RD: Tensor) -> Tensor:
        """up(non_linearity(down(x))), (R, D)."""
        down, down_bias, up, up_bias = (parameter.to(x_RD.dtype) for parameter in self.parameters())
        h_Rm: Tensor = self._dropout(self._non_linearity(linear(x_RD, down, down_bias)))
        return linear(h_Rm, up, up_bias)


class BottleneckAdapter(HookedAdapter):
    """One bottleneck adapter on a model, frozen until `train(True)`. See `pefttune.methods.protocol.Adapter`."""

    def __init__(self, model: Any, config: Bottleneck) -> None:
        places = places_of(model, config.placement, config.layers)
        width: int = model.config.get_text_config().hidden_size
        inner = width // config.reduction_factor
        if not inner:
            raise BaseError(
                f"adapter.reduction_factor: {config.reduction_factor} leaves nothing of the base's width of {width}; "
                f"take {width} or less"
            )
        default = SCALING_OF_PARALLEL if config.placement == "parallel" else 1.0
        layers = {
            place: BottleneckLayer(width, inner, config.non_linearity, config.dropout, model.device) for place in places
        }
        super().__init__(model, layers, default if config.scaling is None else config.scaling)
        self._section = config

    def config(self) -> dict[str, Any]:
        """What a reader needs to rebuild it. PEFT refuses the type, which it does not know."""
        prefix = path_in_class(self._model)
        return {
            "peft_type": "BOTTLENECK_OF_PEFTTUNE",
            "task_type": "CAUSAL_LM",
            "placement": self._section.placement,
            "reduction_factor": self._section.reduction_factor,
            "non_linearity": self._section.non_linearity,
            "scaling": self._scaling,
            "dropout": self._section.dropout,
            "hidden_size": self._model.config.get_text_config().hidden_size,
            "target_modules": [prefix + place.key for place in self._layers],
        }
