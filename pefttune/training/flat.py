"""All that is trained as one tensor: one sum of gradients, one norm, one optimizer step, however many parameters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import torch
from torch import nn


class FlatParameters:
    """One buffer of float32 values and one of gradients; the parameters given become views of them, in place.

    `groups` are the parts of `whole` that have the same of the given factors on the learning rate, and these; 1 where
    none is given.
    """

    def __init__(self, trainable: Mapping[str, nn.Parameter], rates: Mapping[str, float] | None = None) -> None:
        factors = {key: (rates or {}).get(key, 1.0) for key in trainable}
        in_groups = sorted(trainable, key=factors.__getitem__)
        self._parts = [trainable[key] for key in in_groups]
        values = torch.cat([part.detach().flatten() for part in self._parts])
        self.whole = nn.Parameter(values)
        self.whole.grad = torch.zeros_like(values)
        start = 0
        for part in self._parts:
            end = start + part.numel()
            part.data = values[start:end].view_as(part)
            part.grad = self.whole.grad[start:end].view_as(part)
            start = end
        self.groups: list[tuple[nn.Parameter, float]] = []
        start = 0
        for factor, keys in groupby(in_groups, factors.__getitem__):
            end = start + sum(trainable[key].numel() for key in keys)
            group = nn.Parameter(values[start:end])
            group.grad = self.whole.grad[start:end]
            self.groups.append((group, factor))
            start = end

    def forget_gradients(self) -> None:
        """Let the gradients' memory go; nothing is trained any more."""
        for part in (self.whole, *self._parts, *(group for group, _ in self.groups)):
            part.grad = None
