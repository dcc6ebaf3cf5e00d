"""Frozen tables and layers, some rows of which are an adapter's own.

Shapes: B rows of T tokens, D the width of the base, K ids with a vector of their own, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Places = tuple[Tensor, Tensor, Tensor]
"""Where in a batch (rows, columns) the ids were met, and which of them each is."""


class Around(nn.Module):
    """Stands around a module of the base, and has what an architecture asks of that."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer

    @property
    def weight(self) -> Tensor:
        """The frozen weight."""
        weight: Tensor = self.base_layer.weight
        return weight


class LearnedEmbedding(Around):
    """The table that tokens are looked up in, some ids of which have vectors of their own on the rows of one adapter;
    these may lie beyond the table."""

    def __init__(
        self, base_layer: Any, ids_K: Tensor, vectors_KD: Callable[[], Tensor] | None, rows: slice = slice(None)
    ) -> None:
        """Without vectors the ids are only found: what stands for them is made elsewhere."""
        super().__init__(base_layer)
        self._ids_K, self._vectors_KD, self._rows = ids_K, vectors_KD, rows
        self.places: Places

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Embedded tokens (B, T, D)."""
        inside_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        inside_BT[:, self._rows] = True
        own_BTK = (ids_BT[..., None] == self._ids_K) & inside_BT[..., None]
        b, t, k = own_BTK.nonzero(as_tuple=True)
        self.places = b, t, k
        embedded_BTD: Tensor = self.base_layer(ids_BT.masked_fill(own_BTK.any(-1), 0))
        if self._vectors_KD is None:
            return embedded_BTD
        return embedded_BTD.index_put((b, t), self._vectors_KD().to(embedded_BTD.dtype)[k])
