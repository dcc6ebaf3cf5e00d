"""A ragged batch: the tokens of many examples end to end, no padding, what several begin with once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from pefttune.batching.batch import Batch, Entering, Scored, chosen_answers, see_all
from pefttune.batching.layout import Layout
from pefttune.batching.tree import Tree
from pefttune.data import Example


def ragged(examples: Sequence[Example], *, every_answer: bool, causal: bool, device: torch.device) -> Batch:
    """Make a ragged batch, with every candidate answer side by side, or only the right one.

    Where tokens see what follows them (the model is not `causal`, or told so by the examples) nothing is shared. Scored
    rows come in the order of `examples`, wherever their tokens stand.
    """
    causal = causal and not see_all(examples)
    answers = [chosen_answers(example, every_answer) for example in examples]
    tree = Tree([example.prompt for example in examples], answers, share=causal)
    scored = Scored()
    for example, chosen, leaf in zip(examples, answers, tree.leaves, strict=True):
        if not chosen or example.marks:
            scored.marks([leaf.row(position) for position, _ in example.marks], example)
        for answer, row in zip(chosen, leaf.answer_rows, strict=True):
            scored.answer(leaf.row(len(example.prompt) - 1), row, answer)
    return Batch(
        torch.tensor([tree.ids], device=device),
        torch.tensor([tree.positions], device=device),
        *scored.tensors(device),
        n_answers=scored.n_answers,
        n_scored=scored.n_labelled,
        n_examples=len(examples),
        n_tokens=len(tree.ids),
        layout=Layout(tree.nodes, tree.positions, causal=causal, device=device),
        sources=tuple(tree.sources),
    )


def join(batches: Sequence[Batch]) -> Batch:
    """Ragged batches as one, their rows in order; the trees stay apart."""
    layouts = [batch.layout for batch in batches if batch.layout is not None]
    tokens = accumulate((batch.ids_BT.shape[1] for batch in batches), initial=0)
    answers = accumulate((batch.n_answers for batch in batches), initial=0)
    return Batch(
        torch.cat([batch.ids_BT for batch in batches], dim=1),
        torch.cat([batch.positions_BT for batch in batches], dim=1),
        torch.cat([batch.rows_N + first for batch, first in zip(batches, tokens, strict=False)]),
        torch.cat([batch.targets_N for batch in batches]),
        torch.cat([batch.answers_N + first for batch, first in zip(batches, answers, strict=False)]),
        n_answers=sum(batch.n_answers for batch in batches),
        n_scored=sum(batch.n_scored for batch in batches),
        n_examples=sum(batch.n_examples for batch in batches),
        n_tokens=sum(batch.n_tokens for batch in batches),
        layout=Layout.joined(layouts),
        parts=len(batches),
        entering=_joined([batch.entering for batch in batches]),
    )


def _joined(parts: Sequence[Entering | None]) -> Entering | None:
    """Only if all begin at the same layer."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.layer for part in known}) > 1:
        return None
    return Entering(known[0].layer, torch.cat([part.hidden_TD for part in known]))
