"""Ragged attention on a GPU: variable-length Flash attention where nothing is shared, FlexAttention for trees.

Both read the batch as it is, without tiles or padding. Shapes as in `attention.py`: queries (1, H, T, d), keys and
values (1, J, T, d), the result (1, T, H, d).
"""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pefttune.batching.layout import Layout


def varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, scale: float) -> Tensor:
    """Each root by itself (torch.nn.attention.varlen, torch ≥ 2.10; CUDA and 16 bit only)."""
    from torch.nn.attention.varlen import varlen_attn

    ends = [0, *(node.end for node in layout.nodes)]
    longest = max(node.end - node.start for node in layout.nodes)
    bounds = torch.tensor(ends, dtype=torch.int32, device=query.device)
    options: dict[str, Any] = {"scale": scale}
    if "window_size" in signature(varlen_attn).parameters:
        left = -1 if window is None else window - 1
        options["window_size"] = (left, 0 if layout.causal else -1)
    else:
        options["is_causal"] = layout.causal
    groups = query.shape[1] // key.shape[1]
    q, k, v = query[0].transpose(0, 1), *(x[0].repeat_interleave(groups, 0).transpose(0, 1) for x in (key, value))
    attended: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    result: Tensor = attended[None]
    return result


def flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, scale: float) -> Tensor:
    """Trees, by a block mask over rows (FlexAttention, arXiv:2412.05496), compiled on a GPU."""
    mask = block_mask(layout, window, query.device)
    attend = _compiled() if query.is_cuda else _eager()
    attended: Tensor = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)
    return attended.transpose(1, 2)


def block_mask(layout: Layout, window: int | None, device: torch.device) -> Any:
    """Which blocks of 128 rows see which; made once for each batch and window."""
    if window not in layout.block_masks:
        layout.block_masks[window] = _block_mask(layout, window, device)
    return layout.block_masks[window]


def _block_mask(layout: Layout, window: int | None, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    node, above, position = (x.to(device) for x in (layout.node_T, layout.above, layout.positions_T))

    def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        visible = above[node[q], node[k]]
        if layout.causal:
            visible = visible & (k <= q)
        return visible if window is None else visible & (position[q] - position[k] < window)

    return create_block_mask(seen, None, None, len(node), len(node), device=str(device))


def _eager() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def _compiled() -> Any:
    return torch.compile(_eager(), dynamic=True)
