"""LoRA (arXiv:2106.09685), attached in place; the base keeps its class.

Names, initial values, file keys and configuration are PEFT's, and so is what is computed; how is ours. PEFT's layer
casts its input to float32, keeps that copy for the backward pass, and computes adapters in float32 beside a base in
bfloat16, which costs as much as a quarter of a step (docs/LOG.md). Here adapters are float32 masters, computed in the
dtype of the base, and several may act in one pass, each on its own rows.
"""

from __future__ import annotations

import itertools
import math
from typing import Any
from weakref import WeakKeyDictionary

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from pefttune.errors import BaseError
from pefttune.methods.lora_layer import Acting, LoraLinear
from pefttune.methods.places import FILE_PREFIX, POOLER, layer_of, layers_of, linear_modules, path_in_class, targets_of
from pefttune.methods.protocol import Adapter
from pefttune.recipe.adapters import Lora

_slots = itertools.count()
_acting: WeakKeyDictionary[nn.Module, list[Acting]] = WeakKeyDictionary()


class LoraAdapter(Adapter):
    """One LoRA adapter on a model, frozen until `train(True)`; its weights are float32 masters."""

    mixes = True

    def __init__(self, model: Any, config: Lora) -> None:
        self._slot = f"slot{next(_slots)}"
        self._model = model
        linears = linear_modules(model)
        self._config = LoraConfig(
            r=config.r,
            lora_alpha=2 * config.r if config.lora_alpha is None else config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets_of(model, linears, config.target_modules),
            layers_to_transform=layers_of(model, config.layers),
            use_rslora=config.use_rslora,
            exclude_modules=[name for name, _ in model.named_modules() if name.startswith(f"{POOLER}.")] or None,
        )
        scale = self._config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
        acting = _acting.setdefault(model, [])
        self._layers: dict[str, LoraLinear] = {}
        for name, linear in linears.items():
            # By the path PEFT will see, for a layer's number is looked for behind two names.
            if check_target_module_exists(self._config, path_in_class(model) + name):
                self._layers[name] = layer = _wrapped(model, name, linear, acting)
                layer.add(self._slot, config.r, scale, config.lora_dropout)
        if not self._layers:
            raise BaseError("adapter: no linear layer is both in target_modules and in the layers asked for")

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by file key."""
        prefix = FILE_PREFIX + path_in_class(self._model)
        return {
            f"{prefix}{name}.lora_{half}.weight": weights[self._slot]
            for name, layer in self._layers.items()
            for half, weights in (("A", layer.lora_A), ("B", layer.lora_B))
        }

    @property
    def first_layer(self) -> int:
        """The lowest of the base's layers that it changes; 0 also where that is not known."""
        return min(layer_of(name) for name in self._layers)

    def train(self, mode: bool) -> None:
        """Let its parameters learn and its dropout drop, or neither."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)
        for layer in self._layers.values():
            layer.lora_dropout[self._slot].train(mode)

    def activate(self, rows: slice = slice(None)) -> None:
        """Act on these rows of the batch, besides the adapters that act already. Turns no gradient on."""
        _acting[self._model].append(Acting(self._slot, rows))

    @staticmethod
    def deactivate(model: nn.Module) -> None:
        """Let no LoRA adapter act in the model's forward."""
        _acting.get(model, []).clear()

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration, with the targets as names."""
        config: dict[str, Any] = self._config.to_dict()
        config["task_type"] = "SEQ_2_SEQ_LM" if self._model.config.is_encoder_decoder else "CAUSAL_LM"
        for key in ("target_modules", "exclude_modules"):  # sets, which JSON has not
            config[key] = sorted(config[key]) if config[key] else config[key]
        return config

    def detach(self) -> None:
        """Take it off the base; a layer left without adapters becomes the base's own again."""
        acting = _acting[self._model]
        acting[:] = [one for one in acting if one.slot != self._slot]
        for name, layer in self._layers.items():
            layer.remove(self._slot)
            if not layer.lora_A:
                self._model.set_submodule(name, layer.base_layer)


def tables_nbytes(model: Any) -> int:
    """Memory that the adapters on the model need when several act at once, besides their own."""
    return sum(layer.tables_nbytes(model.dtype) for layer in model.modules() if isinstance(layer, LoraLinear))


def _wrapped(model: nn.Module, name: str, linear: nn.Linear, acting: list[Acting]) -> LoraLinear:
    """The LoRA layer at `name`, put around the base's own if there is none yet."""
    layer = model.get_submodule(name)
    if not isinstance(layer, LoraLinear):
        layer = LoraLinear(linear, acting)
        model.set_submodule(name, layer)
    return layer
