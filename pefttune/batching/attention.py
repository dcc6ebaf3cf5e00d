"""Attention over ragged batches, registered with transformers under a name that `prepare` sets on a model.

Shapes: T rows of the batch, H query heads, J key heads (H = J·G), d the width of a head; n, P, K as in `layout.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pefttune.batching.attention_cuda import flex, varlen
from pefttune.batching.layout import Layout, Plan, PlannedTile

NAME = "pefttune"
# A mask of four dimensions is passed on as it is by transformers: this one says that no mask has to be made.
NO_MASK = torch.zeros(1, 1, 1, 1)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: ragged where the batch brings a layout, its own SDPA elsewhere.

    `query` is (1, H, T, d), `key` and `value` (1, J, T, d), the result (1, T, H, d). Raises NotImplementedError for
    what the tiles cannot do (scores that are capped, sinks, a window in both directions): the caller then pads.
    """
    if layout is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    window = options.get("sliding_window")
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unknown or (window is not None and not layout.causal) or options.get("dropout"):
        raise NotImplementedError(f"ragged attention has no {', '.join(unknown) or 'such window or dropout'}")
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.is_cuda and query.dtype != torch.float32:
        on_gpu = flex if layout.shares else varlen
        return on_gpu(query, key, value, layout, window, scale), None
    groups = query.shape[1] // key.shape[1]
    plan = layout.plan(window, (key.shape[1], groups), query.dtype)
    grouped = query[0].reshape(len(key[0]), -1, query.shape[-1])  # (J, G·T, d)
    attended = _tiled_attention(grouped * scale, key[0], value[0], plan)
    return attended.view(query.shape[1:]).transpose(0, 1)[None], None


class TiledAttention(torch.autograd.Function):
    """Softmax attention, tile by tile, for scaled queries (J, G·T, d) and keys and values (J, T, d).

    Scores are computed anew in the backward pass, so none is kept. Gradients of the trunk's keys come from all its
    branches and are added up in float32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        """Attended values (J, G·T, d)."""
        parts = []
        for tile in plan.tiles:
            keys, values = _gather(k, tile.keys, tile.n), _gather(v, tile.keys, tile.n)
            chances = torch.baddbmm(tile.bias, _gather(q, tile.queries, tile.n), keys.transpose(1, 2)).softmax(-1)
            parts.append(torch.bmm(chances, values).view(len(k), -1, q.shape[-1]))
        ctx.save_for_backward(q, k, v)
        ctx.plan = plan
        return torch.cat(parts, dim=1).index_select(1, plan.order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        q, k, v = ctx.saved_tensors
        grad = torch.cat([grad, grad.new_zeros(len(k), 1, grad.shape[-1])], dim=1)  # a row of nothing, for padding
        dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
        parts = []
        for tile in ctx.plan.tiles:
            queries, grads = _gather(q, tile.queries, tile.n), _gather(grad, tile.queries_or_nothing, tile.n)
            keys, values = _gather(k, tile.keys, tile.n), _gather(v, tile.keys, tile.n)
            chances = torch.baddbmm(tile.bias, queries, keys.transpose(1, 2)).softmax(-1)
            dchances = torch.bmm(grads, values.transpose(1, 2))
            dscores = torch._softmax_backward_data(dchances, chances, -1, chances.dtype)
            parts.append(torch.bmm(dscores, keys).view(len(k), -1, q.shape[-1]))
            _add(dk, torch.bmm(dscores.transpose(1, 2), queries), tile)
            _add(dv, torch.bmm(chances.transpose(1, 2), grads), tile)
        dq = torch.cat(parts, dim=1).index_select(1, ctx.plan.order)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


# torch gives `apply` no types.
_tiled_attention: Callable[[Tensor, Tensor, Tensor, Plan], Tensor] = TiledAttention.apply


def _gather(x: Tensor, rows: Tensor, n: int) -> Tensor:
    """Rows of each head, (J·n, rows of a sequence, d)."""
    return x.index_select(1, rows).view(len(x) * n, -1, x.shape[-1])


def _add(total: Tensor, parts: Tensor, tile: PlannedTile) -> None:
    """Add what the keys of a tile get, (J·n, P+K, d), to their rows."""
    parts = parts.view(len(total), -1, total.shape[-1])
    own = parts.index_select(1, tile.own_slots)
    total.index_add_(1, tile.own_rows, own.float())
    if tile.trunk.stop > tile.trunk.start:
        by_sequence = parts.view(len(total), tile.n, -1, total.shape[-1])
        total[:, tile.trunk] += by_sequence[:, :, : tile.trunk.stop - tile.trunk.start].sum(1, dtype=torch.float32)


def prepare(model: Any) -> None:
    """Let `model` use this attention, which is its own SDPA for padded batches. A model that computes another attention
    (sinks, capped scores) keeps it, and will be found unable to read ragged batches; an encoder-decoder reads none."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if model.config.is_encoder_decoder:
        return
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        model.set_attn_implementation(NAME)
