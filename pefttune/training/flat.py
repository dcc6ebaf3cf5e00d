"""All that is trained as one tensor: one sum of gradients, one norm, one optimizer step, however many parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class FlatParameters:
    """One buffer of float32 values and one of gradients; the parameters given become views of them, in place."""

    def __init__(self, trainable: Mapping[str, nn.Parameter]) -> None:
        self._parts = list(trainable.values())
        values = torch.cat([part.detach().flatten() for part in self._parts])
        self.whole = nn.Parameter(values)
        self.whole.grad = torch.zeros_like(values)
        start = 0
        for part in self._parts:
            end = start + part.numel()
            part.data = values[start:end].view_as(part)
            part.grad = self.whole.grad[start:end].view_as(part)
            start = end

    def forget_gradients(self) -> None:
        """Let the gradients' memory go; nothing is trained any more."""
        self.whole.grad = None
        for part in self._parts:
            part.grad = None
