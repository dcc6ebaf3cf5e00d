"""Trees of tokens: everything stands once, each token where it would stand alone."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttune.batching import n_fed, ragged
from pefttune.batching.tree import WORTH_SHARING, Tree
from pefttune.data import Example

Tokens = tuple[int, ...]
TRUNK = tuple(range(10, 30))
FEW = st.integers(0, 2)  # a small alphabet, so that much begins alike


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[Tokens], list[list[Tokens]]]:
    trunk = draw(st.lists(FEW, max_size=20))
    count = draw(st.integers(1, 8))
    prompts = [(*trunk, *draw(st.lists(FEW, min_size=1, max_size=20))) for _ in range(count)]
    answers = [draw(st.lists(st.lists(FEW, min_size=1, max_size=4).map(tuple), max_size=3)) for _ in range(count)]
    return prompts, answers


def way(tree: Tree, node: int | None) -> list[int]:
    """The rows from the root to the end of a node."""
    rows: list[int] = []
    while node is not None:
        rows = [*range(tree.nodes[node].start, tree.nodes[node].end), *rows]
        node = tree.nodes[node].parent
    return rows


def node_of(tree: Tree, row: int) -> int:
    return next(i for i, node in enumerate(tree.nodes) if node.start <= row < node.end)


def seen(tree: Tree, row: int) -> Tokens:
    """The tokens that a row sees, itself the last."""
    rows = way(tree, node_of(tree, row))
    return tuple(tree.ids[i] for i in rows[: rows.index(row) + 1])


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(forests(), st.booleans())
def test_each_row_sees_what_it_would_see_alone(forest: tuple[list[Tokens], list[list[Tokens]]], share: bool) -> None:
    prompts, answers = forest
    tree = Tree(prompts, answers, share=share)
    for prompt, some, leaf in zip(prompts, answers, tree.leaves, strict=True):
        for position in range(len(prompt)):
            assert seen(tree, leaf.row(position)) == prompt[: position + 1]
        for answer, start in zip(some, leaf.answer_rows, strict=True):
            for i in range(len(answer) - 1):
                assert seen(tree, start + i) == (*prompt, *answer[: i + 1])


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(forests(), st.booleans())
def test_rows_nodes_positions_and_sources_fit_together(
    forest: tuple[list[Tokens], list[list[Tokens]]], share: bool
) -> None:
    prompts, answers = forest
    tree = Tree(prompts, answers, share=share)
    assert [node.start for node in tree.nodes] == [0, *(node.end for node in tree.nodes[:-1])]
    assert tree.nodes[-1].end == len(tree.ids) == len(tree.positions)
    assert all(node.parent is None or node.parent < i for i, node in enumerate(tree.nodes))
    for row, position in enumerate(tree.positions):
        assert len(seen(tree, row)) == position + 1
    for i, node in enumerate(tree.nodes):  # depth first: what hangs on a node follows without a gap
        below = [j for j in range(len(tree.nodes)) if j > i and node.start in way(tree, j)]
        assert below == list(range(i + 1, i + 1 + len(below)))
    fed = [
        (*prompt, *(token for answer in some for token in answer[:-1]))
        for prompt, some in zip(prompts, answers, strict=True)
    ]
    told: list[dict[int, int]] = [{} for _ in prompts]
    assert sum(source.length for source in tree.sources) == len(tree.ids)
    at = 0
    for source in tree.sources:
        for example in source.examples:
            run = fed[example][source.offset : source.offset + source.length]
            assert tuple(tree.ids[at : at + source.length]) == run
            assert not told[example].keys() & set(range(source.offset, source.offset + source.length))
            told[example] |= {source.offset + i: at + i for i in range(source.length)}
        at += source.length
    assert [sorted(places) for places in told] == [list(range(len(tokens))) for tokens in fed]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(forests())
def test_what_is_worth_sharing_stands_once(forest: tuple[list[Tokens], list[list[Tokens]]]) -> None:
    prompts, answers = forest
    tree = Tree(prompts, answers, share=True)
    shared = sum(source.length * (len(source.examples) - 1) for source in tree.sources)
    alone = sum(n_fed(Example(p, tuple(a), None, ""), True) for p, a in zip(prompts, answers, strict=True))
    assert len(tree.ids) == alone - shared
    assert all(source.length >= WORTH_SHARING for source in tree.sources if len(source.examples) > 1)
    for one, other in pairwise(sorted(set(prompts))):  # roots that are left apart begin alike for a few tokens at most
        rows = [tree.leaves[prompts.index(prompt)].row(0) for prompt in (one, other)]
        if rows[0] != rows[1]:
            assert one[:WORTH_SHARING] != other[:WORTH_SHARING]


def test_by_hand() -> None:
    prompts = [(*TRUNK, 1, 2), (*TRUNK, 3), (9,)]
    tree = Tree(prompts, [[(5, 6), (7,)], [(5, 6, 7)], []], share=True)
    # In sorted order: (9,), then the trunk with 1 2 and its answers, then 3 with its answer's beginning.
    assert tree.ids == [9, *TRUNK, 1, 2, 5, 3, 5, 6]
    assert tree.positions == [0, *range(20), 20, 21, 22, 20, 21, 22]
    assert [(n.start, n.end, n.parent) for n in tree.nodes] == [
        (0, 1, None), (1, 21, None), (21, 23, 1), (23, 24, 2), (24, 27, 1)
    ]  # fmt: skip
    assert [leaf.answer_rows for leaf in tree.leaves] == [(23, 24), (25,), ()]
    assert [tree.leaves[0].row(i) for i in (0, 19, 20, 21)] == [1, 20, 21, 22]


def test_whole_prompts_twice_stand_once_and_the_last_token_of_an_answer_never() -> None:
    batch = ragged(
        [Example(TRUNK, ((1, 2), (3,)), 0, "a"), Example(TRUNK, ((4, 2, 2),), 0, "b"), Example(TRUNK, ((2,),), 0, "c")],
        every_answer=True,
        causal=True,
        device=torch.device("cpu"),
    )
    assert batch.ids_BT.tolist() == [[*TRUNK, 1, 4, 2]]
    assert batch.positions_BT.tolist() == [[*range(20), 20, 20, 21]]
    assert batch.rows_N.tolist() == [19, 20, 19, 19, 21, 22, 19]
    assert batch.targets_N.tolist() == [1, 2, 3, 4, 2, 2, 2]
    assert batch.answers_N.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert (batch.n_answers, batch.n_examples, batch.n_tokens, batch.n_scored) == (4, 3, 23, 7)
