"""AdaLoRA (arXiv:2303.10512): PEFT's layers, whose ranks are cut while they learn, those that matter least first."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.adalora.layer import RankAllocator
from torch import Tensor, nn

from pefttune.errors import TrainingError
from pefttune.methods.injected import InjectedAdapter
from pefttune.recipe.adapters import LEAST_TINIT

# Parts of a run before the first cut and after the last one, much as the authors' runs on GLUE have them.
BEFORE, AFTER = 0.1, 0.5


class AdaLoraAdapter(InjectedAdapter):
    """B · E · A in place of LoRA's B · A, with E diagonal. A rank that was cut is a zero in E: what is saved has the
    shapes that it began with."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        self._allocator: Any = None
        self._kept: dict[str, list[bool]] = {}

    def penalty(self) -> Tensor:
        """How far A's rows and B's columns are from orthonormal, as PEFT adds it to the loss."""
        products = [
            weight @ weight.T if key.endswith("lora_A") else weight.T @ weight
            for key, weight in self.parameters.items()
            if not key.endswith("lora_E")
        ]
        apart = [torch.linalg.norm(product - torch.eye(len(product)).to(product)) for product in products]
        return torch.stack(apart).mean().mul(self._section.orth_reg_weight)

    def after_step(self, step: int, of: int) -> None:
        """Cut ranks by the schedule. Raises TrainingError where the run has no steps for it."""
        if self._allocator is None:
            self._plan(of)
        layers, last = nn.ModuleList(self._layers.values()), of - self._config.tfinal
        if step <= last:
            _, kept = self._allocator.update_and_allocate(layers, step, force_mask=step == last)
            self._kept = kept or self._kept
        else:
            self._allocator.mask_using_rank_pattern(layers, self._kept)

    def _plan(self, of: int) -> None:
        config, section = self._config, self._section
        config.tinit = max(LEAST_TINIT, int(BEFORE * of)) if section.tinit is None else section.tinit
        config.tfinal = int(AFTER * of) if section.tfinal is None else section.tfinal
        config.total_step = of
        if config.tinit + config.tfinal >= of:
            raise TrainingError(
                f"adapter.tinit ({config.tinit}) and adapter.tfinal ({config.tfinal}) leave none of this run's {of} "
                "optimizer steps for cutting ranks; make them smaller, or train longer"
            )
        self._allocator = RankAllocator(nn.ModuleList(self._layers.values()), config, self._name)
