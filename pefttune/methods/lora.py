"""LoRA (arXiv:2106.09685) through PEFT, attached in place; the base keeps its class.

PEFT's functional interface has four holes, closed here: a second injection leaves both adapters trainable; activating
one turns gradients on; new dropout modules are in train mode inside a model in eval mode; and nothing says so when a
target matches no module.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pefttune.errors import BaseError
from pefttune.recipe import schema

FILE_PREFIX = "base_model.model."
_slots = itertools.count()


class LoraAdapter:
    """One LoRA adapter on a model, frozen until `train(True)`; its weights are float32 masters."""

    def __init__(self, model: Any, config: schema.Lora) -> None:
        # PEFT forbids dots in the names of adapters, ours allow them: inside the model an adapter is a numbered slot.
        self._slot = f"slot{next(_slots)}"
        self._model = model
        self._config = LoraConfig(
            r=config.r,
            lora_alpha=2 * config.r if config.lora_alpha is None else config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=_targets(model, config.target_modules),
            layers_to_transform=_layers(model, config.layers_to_transform),
            use_rslora=config.use_rslora,
        )
        inject_adapter_in_model(self._config, model, self._slot)
        del model.peft_config  # PEFT's note of what is attached; it would warn of it at the next one, and outlive it
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self.train(False)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by file key."""
        mark = f".{self._slot}."
        return {
            FILE_PREFIX + name.replace(mark, "."): parameter
            for name, parameter in self._model.named_parameters()
            if mark in name
        }

    def train(self, mode: bool) -> None:
        """Let its parameters learn and its dropout drop, or neither."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)
        for layer in _lora_layers(self._model):
            if self._slot in layer.lora_dropout:
                layer.lora_dropout[self._slot].train(mode)

    def activate(self) -> None:
        """Let it, and no other LoRA adapter, act in the model's forward. Turns no gradient on."""
        for layer in _lora_layers(self._model):
            layer._active_adapter = [self._slot]  # PEFT's set_adapter would switch gradients as well

    @staticmethod
    def deactivate(model: nn.Module) -> None:
        """Let no LoRA adapter act in the model's forward."""
        for layer in _lora_layers(model):
            layer._active_adapter = []

    def state(self) -> dict[str, Tensor]:
        """Its tensors by file key, on the CPU."""
        return {key: parameter.detach().cpu().clone() for key, parameter in self.parameters.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over tensors that were checked against `parameters`."""
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.copy_(state[key])

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration, with the targets as names."""
        config: dict[str, Any] = self._config.to_dict()
        config["target_modules"] = sorted(config["target_modules"])
        return config

    def detach(self) -> None:
        """Take it off the base; a layer left without adapters becomes the base's own again."""
        for name, layer in list(self._model.named_modules()):
            if not isinstance(layer, LoraLayer) or self._slot not in layer.lora_A:
                continue
            # Deleting an adapter that acts, PEFT would let another one act instead, and turn its gradients on.
            layer._active_adapter = [slot for slot in layer.active_adapters if slot != self._slot]
            layer.delete_adapter(self._slot)
            if not layer.lora_A:
                parent, _, child = name.rpartition(".")
                setattr(self._model.get_submodule(parent), child, layer.base_layer)


def _lora_layers(model: nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _linear_modules(model: Any) -> dict[str, nn.Linear]:
    """The linear layers of the base by path, without its output layer. (bitsandbytes' layers are nn.Linear too.)"""
    output = model.get_output_embeddings()
    modules: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        inner = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(inner, nn.Linear) and inner is not output and ".lora_" not in name:
            modules[name.removesuffix(".base_layer")] = inner
    return modules


def _targets(model: Any, wanted: str | Sequence[str]) -> list[str]:
    """Names of the modules to adapt. Raises BaseError when one of them is nowhere in the base."""
    present = sorted({name.rpartition(".")[2] for name in _linear_modules(model)})
    if not present:
        raise BaseError(f"adapter.method: {type(model).__name__} has no linear layers that LoRA could be attached to")
    if wanted == "all-linear":
        return present
    for target in wanted:
        if target not in present:
            close = difflib.get_close_matches(target, present, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BaseError(
                f"adapter.target_modules: the base has no linear module {target!r}{hint}; it has {', '.join(present)}"
            )
    return list(wanted)


def _layers(model: Any, wanted: Sequence[int] | None) -> list[int] | None:
    if wanted is None:
        return None
    count = model.config.get_text_config().num_hidden_layers
    if not wanted or not all(0 <= index < count for index in wanted):
        raise BaseError(
            f"adapter.layers_to_transform: the base has layers 0 to {count - 1}; {list(wanted)} is not in it"
        )
    return list(wanted)
