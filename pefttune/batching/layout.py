"""Which rows of a ragged batch see which: cut into tiles, which attention computes one after the other.

A tile is some queries and the keys they may see: those of the trunk, which all of them share, and their own. Tiles fit
into a processor's cache, and what no query of a tile may see is not in it. Shapes: T rows of the batch, n sequences of
a tile, S queries of each, P keys of the trunk, K keys of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pefttune.batching.tree import Node

# Queries × keys of a tile: with 9 heads and 4 bytes a score 2.9 MB, about what a core's caches hold.
TILE_SCORES = 80_000
# Queries of one sequence in a tile: fewer leave out more of what comes later, more make larger products.
TILE_QUERIES = 128
# Softmax in bfloat16 takes twice as long where its width is no multiple of this (docs/LOG.md).
WIDTH = 32
# How much larger than needed padding may make a tile: a part, and what a tile of its own would cost.
PADDING, TILE_COST = 1.25, 30_000


@dataclass(frozen=True)
class Tile:
    """Rows of the batch: `queries_nS`, their own `keys_nK`, and the `trunk` that all of them share; `hidden_nSK` says
    what must not be seen, over trunk and own keys. What is -1 is padding."""

    queries_nS: Tensor
    keys_nK: Tensor
    trunk: slice
    hidden_nSK: Tensor


@dataclass(frozen=True)
class PlannedTile:
    """A tile for J key heads with G query heads each: its indices flattened, its mask as a bias.

    `queries` are n·G·S rows of (G·T), `queries_or_nothing` likewise with G·T for padding; `keys` are n·(P+K) rows of
    the batch. `own_slots` are the places among the keys that are neither trunk nor padding, `own_rows` their rows.
    """

    n: int
    queries: Tensor
    queries_or_nothing: Tensor
    keys: Tensor
    bias: Tensor
    own_slots: Tensor
    own_rows: Tensor
    trunk: slice


@dataclass(frozen=True)
class Plan:
    """All tiles, and where in what they give, put one behind the other, each of the G·T rows is."""

    tiles: tuple[PlannedTile, ...]
    order: Tensor


@dataclass(frozen=True)
class _Piece:
    """Some queries of one branch, the branch's rows they see something of, and what of trunk and those is hidden."""

    queries: range
    keys: range
    hidden_SK: Tensor


class Layout:
    """The trees of a ragged batch, as tiles."""

    def __init__(self, nodes: Sequence[Node], positions: Sequence[int], *, causal: bool, device: torch.device) -> None:
        self.causal = causal
        self.nodes = nodes
        self.node_T = torch.repeat_interleave(torch.tensor([node.end - node.start for node in nodes]))
        self.above = _above(nodes)
        self.positions_T = torch.tensor(positions)
        self._device = device
        self.block_masks: dict[int | None, Any] = {}
        """FlexAttention's own form of this layout, by window."""
        self._plans: dict[tuple[int | None, tuple[int, int], torch.dtype], Plan] = {}

    @classmethod
    def joined(cls, layouts: Sequence[Layout]) -> Layout:
        """The layout of batches put one behind the other."""
        nodes: list[Node] = []
        for layout in layouts:
            rows, count = nodes[-1].end if nodes else 0, len(nodes)
            nodes += [
                Node(node.start + rows, node.end + rows, None if node.parent is None else node.parent + count)
                for node in layout.nodes
            ]
        positions = [position for layout in layouts for position in layout.positions_T.tolist()]
        return cls(nodes, positions, causal=layouts[0].causal, device=layouts[0]._device)

    @property
    def shares(self) -> bool:
        """Whether any node hangs on another."""
        return any(node.parent is not None for node in self.nodes)

    def tiles(self, window: int | None = None) -> list[Tile]:
        """Tiles that hold every row once as a query; with a window a row sees the last `window` positions, its own one
        of them."""
        return list(self._cut(window))

    def plan(self, window: int | None, heads: tuple[int, int], dtype: torch.dtype) -> Plan:
        """The tiles for J key heads of G query heads each. The same plan serves every layer of that shape."""
        key = (window, heads, dtype)
        if key not in self._plans:
            rows = len(self.positions_T)
            tiles = tuple(_planned(tile, rows, heads, dtype, self._device) for tile in self.tiles(window))
            queries = torch.cat([tile.queries_or_nothing for tile in tiles]).cpu()
            order = torch.empty(heads[1] * rows + 1, dtype=torch.long)
            order[queries] = torch.arange(len(queries))
            self._plans[key] = Plan(tiles, order[:-1].to(self._device))
        return self._plans[key]

    def _cut(self, window: int | None) -> Iterator[Tile]:
        for trunk, branches in _trunks_and_branches(self.nodes):
            pieces = [piece for branch in branches for piece in self._pieces(trunk, branch, window)]
            pieces.sort(key=lambda piece: (len(piece.keys), len(piece.queries)))
            while pieces:
                count = _together(pieces, len(trunk))
                yield self._tile(trunk, pieces[:count])
                del pieces[:count]

    def _pieces(self, trunk: range, branch: range, window: int | None) -> Iterator[_Piece]:
        for start in range(branch.start, branch.stop, TILE_QUERIES):
            queries = range(start, min(start + TILE_QUERIES, branch.stop))
            keys = range(branch.start, queries.stop if self.causal else branch.stop)
            seen_SK = self._sees(queries, keys, window)
            first = int(seen_SK.any(0).nonzero()[0])  # a window leaves out what lies far back
            keys, own_SK = keys[first:], seen_SK[:, first:]
            yield _Piece(queries, keys, ~torch.cat([self._sees(queries, trunk, window), own_SK], dim=1))

    def _sees(self, queries: range, keys: range, window: int | None) -> Tensor:
        """(S, K): a row sees those before it (or all, if not causal) of its own node and of those on the way to the
        root."""
        q = torch.arange(queries.start, queries.stop)[:, None]
        k = torch.arange(keys.start, keys.stop)[None]
        node = self.node_T
        seen_SK = self.above[node[q], node[k]]
        if self.causal:
            seen_SK = seen_SK & (k <= q)
        if window is not None:
            seen_SK = seen_SK & (self.positions_T[q] - self.positions_T[k] < window)
        return seen_SK

    def _tile(self, trunk: range, pieces: Sequence[_Piece]) -> Tile:
        queries = _pad([piece.queries for piece in pieces], max(len(piece.queries) for piece in pieces))
        n_keys = max(len(piece.keys) for piece in pieces)
        keys = _pad([piece.keys for piece in pieces], n_keys + -(len(trunk) + n_keys) % WIDTH)
        hidden = torch.ones(*queries.shape, len(trunk) + keys.shape[1], dtype=torch.bool)
        for i, piece in enumerate(pieces):
            hidden[i, : len(piece.queries), : len(trunk) + len(piece.keys)] = piece.hidden_SK
            hidden[i, len(piece.queries) :] = False  # nobody reads what padding sees, but a softmax of nothing is NaN
        return Tile(queries, keys, slice(trunk.start, trunk.stop), hidden)


def _planned(tile: Tile, rows: int, heads: tuple[int, int], dtype: torch.dtype, device: torch.device) -> PlannedTile:
    J, G = heads
    n, S = tile.queries_nS.shape
    real_nGS = (tile.queries_nS >= 0)[:, None].expand(n, G, S)
    queries_nGS = tile.queries_nS[:, None] + torch.arange(G)[:, None] * rows
    trunk = torch.arange(tile.trunk.start, tile.trunk.stop)
    keys_nN = torch.cat([trunk.expand(n, -1), tile.keys_nK], dim=1)
    own_nN = keys_nN >= 0
    own_nN[:, : len(trunk)] = False
    bias_nSN = torch.zeros(tile.hidden_nSK.shape, dtype=dtype).masked_fill_(tile.hidden_nSK, float("-inf"))
    bias = bias_nSN[None, :, None].expand(J, n, G, -1, -1).reshape(J * n, G * S, -1)
    indices = (
        queries_nGS.where(real_nGS, 0).flatten(),
        queries_nGS.where(real_nGS, G * rows).flatten(),
        keys_nN.clamp(min=0).flatten(),
        own_nN.flatten().nonzero()[:, 0],
        keys_nN[own_nN],
    )
    queries, or_nothing, keys, own_slots, own_rows = (index.to(device) for index in indices)
    return PlannedTile(n, queries, or_nothing, keys, bias.to(device), own_slots, own_rows, tile.trunk)


def _pad(rows: Sequence[range], width: int) -> Tensor:
    """The ranges as one tensor of that width, padded with -1."""
    padded = torch.full((len(rows), width), -1)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.arange(row.start, row.stop)
    return padded


def _together(pieces: Sequence[_Piece], trunk: int) -> int:
    """How many of the pieces, sorted by length, go into the first tile."""
    queries = keys = needed = 0
    for count, piece in enumerate(pieces):
        queries, keys = max(queries, len(piece.queries)), max(keys, len(piece.keys))
        needed += len(piece.queries) * (trunk + len(piece.keys))
        area = (count + 1) * queries * (trunk + keys)
        if count and (area > TILE_SCORES or area > PADDING * needed + TILE_COST):
            return count
    return len(pieces)


def _trunks_and_branches(nodes: Sequence[Node]) -> Iterator[tuple[range, list[range]]]:
    """All roots as branches of nothing, then each root as the trunk of what hangs on it."""
    branches: dict[int, list[range]] = {i: [] for i, node in enumerate(nodes) if node.parent is None}
    yield range(0), [range(nodes[i].start, nodes[i].end) for i in branches]
    for node in nodes:  # depth first: a node that hangs on no root goes on the branch before it
        if node.parent in branches:
            branches[node.parent].append(range(node.start, node.end))
            root = node.parent
        elif node.parent is not None:
            branches[root][-1] = range(branches[root][-1].start, node.end)
    for i, hanging in branches.items():
        if hanging:
            yield range(nodes[i].start, nodes[i].end), hanging


def _above(nodes: Sequence[Node]) -> Tensor:
    """(nodes, nodes): whether the second is the first or lies on its way to the root."""
    above = torch.eye(len(nodes), dtype=torch.bool)
    for i, node in enumerate(nodes):
        if node.parent is not None:  # a parent comes before its children
            above[i] |= above[node.parent]
    return above
