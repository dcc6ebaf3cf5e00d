"""Tiles: every row is a query once, and sees its way to the root, no more and no less."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pefttune.batching.attention import attention
from pefttune.batching.layout import WIDTH, Layout
from pefttune.batching.tree import Tree

CPU = torch.device("cpu")
FEW = st.integers(0, 2)
BOUNDED = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@st.composite
def grown(draw: st.DrawFn) -> Tree:
    trunk = draw(st.lists(FEW, max_size=20))
    count = draw(st.integers(1, 6))
    prompts = [(*trunk, *draw(st.lists(FEW, min_size=1, max_size=25))) for _ in range(count)]
    answers = [draw(st.lists(st.lists(FEW, min_size=1, max_size=4).map(tuple), max_size=3)) for _ in range(count)]
    return Tree(prompts, answers, share=draw(st.booleans()))


def defined(tree: Tree, causal: bool, window: int | None) -> torch.Tensor:
    """(T, T), by the words of the docstring: a row sees those before it of its own node and of the nodes above."""
    seen = torch.zeros(len(tree.ids), len(tree.ids), dtype=torch.bool)
    for i, node in enumerate(tree.nodes):
        above, up = {i}, node.parent
        while up is not None:
            above.add(up)
            up = tree.nodes[up].parent
        for query in range(node.start, node.end):
            for j in above:
                for key in range(tree.nodes[j].start, tree.nodes[j].end):
                    near = window is None or tree.positions[query] - tree.positions[key] < window
                    seen[query, key] = near and (key <= query or not causal)
    return seen


def tiled(layout: Layout, rows: int, window: int | None) -> tuple[torch.Tensor, list[int]]:
    """The same from the tiles, and which rows they have as queries."""
    seen, queries = torch.zeros(rows, rows, dtype=torch.bool), []
    for tile in layout.tiles(window):
        trunk = torch.arange(tile.trunk.start, tile.trunk.stop)
        assert (len(trunk) + tile.keys_nK.shape[1]) % WIDTH == 0
        for query_S, key_K, hidden_SK in zip(tile.queries_nS, tile.keys_nK, tile.hidden_nSK, strict=True):
            keys = torch.cat([trunk, key_K])
            for query, hidden_K in zip(query_S.tolist(), hidden_SK, strict=True):
                if query < 0:
                    assert not hidden_K.all(), "a softmax of nothing is NaN"
                    continue
                queries.append(query)
                some = keys[~hidden_K]
                assert (some >= 0).all(), "padding is seen"
                assert len(set(some.tolist())) == len(some), "a key is seen twice"
                seen[query, some] = True
    return seen, queries


@pytest.fixture(params=["tiles as they are", "small tiles"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small tiles":
        monkeypatch.setattr("pefttune.batching.layout.TILE_QUERIES", 4)
        monkeypatch.setattr("pefttune.batching.layout.TILE_SCORES", 100)
        monkeypatch.setattr("pefttune.batching.layout.TILE_COST", 10)


@pytest.mark.parametrize("causal", [True, False])
def test_rows_see_what_the_tree_says(sizes: None, causal: bool) -> None:
    @BOUNDED
    @given(grown(), st.none() | st.integers(1, 12))
    def check(tree: Tree, window: int | None) -> None:
        window = window if causal else None
        layout = Layout(tree.nodes, tree.positions, causal=causal, device=CPU)
        seen, queries = tiled(layout, len(tree.ids), window)
        assert sorted(queries) == list(range(len(tree.ids)))
        assert torch.equal(seen, defined(tree, causal, window))

    check()


def test_a_long_branch_is_cut_and_what_comes_later_is_in_no_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.batching.layout.TILE_QUERIES", 4)
    monkeypatch.setattr("pefttune.batching.layout.TILE_SCORES", 1)
    monkeypatch.setattr("pefttune.batching.layout.WIDTH", 1)
    tree = Tree([tuple(range(10))], [[]], share=True)
    tiles = Layout(tree.nodes, tree.positions, causal=True, device=CPU).tiles()
    assert [tile.queries_nS.tolist() for tile in tiles] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9]]]
    assert [tile.keys_nK.shape[1] for tile in tiles] == [4, 8, 10]
    windowed = Layout(tree.nodes, tree.positions, causal=True, device=CPU).tiles(window=2)
    assert sorted(tile.keys_nK[0].tolist() for tile in windowed) == [[0, 1, 2, 3], [3, 4, 5, 6, 7], [7, 8, 9]]


def test_joined_trees_see_nothing_of_each_other() -> None:
    @BOUNDED
    @given(st.lists(grown(), min_size=2, max_size=3), st.none() | st.integers(1, 12))
    def check(trees: list[Tree], window: int | None) -> None:
        layouts = [Layout(tree.nodes, tree.positions, causal=True, device=CPU) for tree in trees]
        rows = sum(len(tree.ids) for tree in trees)
        seen, queries = tiled(Layout.joined(layouts), rows, window)
        assert sorted(queries) == list(range(rows))
        assert torch.equal(seen, torch.block_diag(*(defined(tree, True, window) for tree in trees)).bool())

    check()


def textbook(q: Any, k: Any, v: Any, seen: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(q kᵀ · scale) v over what is seen, (1, T, H, d)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_and_its_gradients_are_the_textbooks(sizes: None, heads: tuple[int, int], causal: bool) -> None:
    @settings(BOUNDED, max_examples=15)
    @given(grown(), st.none() | st.integers(1, 12), st.sampled_from([None, 0.7]))
    def check(tree: Tree, window: int | None, scaling: float | None) -> None:
        window = window if causal else None
        layout = Layout(tree.nodes, tree.positions, causal=causal, device=CPU)
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, n, len(tree.ids), 8, requires_grad=True) for n in (heads[0], heads[1], heads[1]))
        ours, _ = attention(torch.nn.Identity(), q, k, v, None, layout, sliding_window=window, scaling=scaling)
        theirs = textbook(q, k, v, defined(tree, causal, window), scaling or 8**-0.5)
        # float32: sums of at most some 150 terms of about 1, in another order.
        assert (ours - theirs).abs().max() < 1e-5
        weight = torch.randn(ours.shape)
        mine = torch.autograd.grad((ours * weight).sum(), (q, k, v))
        for one, other in zip(mine, torch.autograd.grad((theirs * weight).sum(), (q, k, v)), strict=True):
            assert (one - other).norm() < 1e-5 * max(1.0, float(other.norm()))

    check()


@pytest.mark.parametrize("option", [{"softcap": 2.0}, {"s_aux": torch.ones(4)}, {"dropout": 0.1}])
def test_what_tiles_cannot_do_is_refused(option: dict[str, Any]) -> None:
    tree = Tree([(1, 2, 3)], [[]], share=True)
    layout = Layout(tree.nodes, tree.positions, causal=True, device=CPU)
    q = torch.randn(1, 4, 3, 8)
    with pytest.raises(NotImplementedError, match="ragged attention has no"):
        attention(torch.nn.Identity(), q, q, q, None, layout, **option)
    backwards = Layout(tree.nodes, tree.positions, causal=False, device=CPU)
    with pytest.raises(NotImplementedError, match="such window"):
        attention(torch.nn.Identity(), q, q, q, None, backwards, sliding_window=4)


def test_a_plan_is_made_once_for_all_layers_of_a_shape() -> None:
    tree = Tree([(1, 2, 3)], [[]], share=True)
    layout = Layout(tree.nodes, tree.positions, causal=True, device=CPU)
    plan = layout.plan(None, (2, 2), torch.float32)
    assert layout.plan(None, (2, 2), torch.float32) is plan
    assert layout.plan(4, (2, 2), torch.float32) is not plan
    assert layout.plan(None, (2, 2), torch.bfloat16).tiles[0].bias.dtype == torch.bfloat16
