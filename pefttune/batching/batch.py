"""What the model reads and what is scored of it, whichever way the tokens are laid out.

Shapes: B rows of T tokens (B is 1 in a ragged batch), N scored rows, D the width of the hidden states, U tokens of an
answer where those stand apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pefttune.batching.layout import Layout
from pefttune.batching.tree import Source
from pefttune.data import UNKNOWN, Example


@dataclass(frozen=True, slots=True)
class Entering:
    """Hidden states (T, D) that enter the layer `layer`."""

    layer: int
    hidden_TD: Tensor


@dataclass(frozen=True)
class Batch:
    """Tensors of a batch.

    `rows_N` are the flat (B·T) indices of the hidden states that are scored, `targets_N` what each should predict (a
    token, or a class for a head; -100 where unknown), `answers_N` which answer, counted through the batch, a row
    belongs to. A ragged batch has a `layout` and no padding mask, a padded one the reverse. Of an encoder-decoder the
    rows are those of its decoder, which reads `decoder_ids_BU`.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    rows_N: Tensor
    targets_N: Tensor
    answers_N: Tensor
    n_answers: int
    n_scored: int
    """Labelled positions: the loss is a mean over these."""
    n_examples: int
    n_tokens: int
    layout: Layout | None = None
    padding_mask_BT: Tensor | None = None
    sees_all: bool = False
    """Whether transformers is to be told, of a padded batch, that a decoder's tokens see what follows them."""
    decoder_ids_BU: Tensor | None = None
    sources: tuple[Source, ...] = ()
    """Where the tokens of a ragged batch come from, run by run."""
    parts: int = 1
    """How many batches were joined to this one."""
    entering: Entering | None = None
    """The hidden states to begin with, where those of the frozen layers below are known."""
    known_ND: Tensor | None = None
    """The last hidden states of the scored rows, where the whole base is frozen and they are known."""

    @property
    def causal(self) -> bool | None:
        """Whether a token of a ragged batch is blind to what follows it; None where the model knows."""
        return None if self.layout is None else self.layout.causal


class Scored:
    """Collects which rows are scored, example by example."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.targets: list[float] = []
        self.answers: list[int] = []
        self.n_answers = 0

    @property
    def n_labelled(self) -> int:
        """Rows whose target is known."""
        return sum(target != UNKNOWN for target in self.targets)

    def marks(self, rows: Sequence[int], example: Example) -> None:
        """The rows that a head reads, for which they are all one answer; or, with answers, those that count with the
        first of them."""
        self._add(rows, [target for _, target in example.marks])
        self.n_answers += not example.answers

    def answer(self, prompt_end: int, start: int, tokens: Sequence[int]) -> None:
        """An answer that stands at `start`: its first token is predicted by the prompt's last row `prompt_end`, each
        other one by the row before it."""
        self._add([prompt_end, *range(start, start + len(tokens) - 1)], tokens)
        self.n_answers += 1

    def _add(self, rows: Sequence[int], targets: Sequence[float]) -> None:
        self.rows += rows
        self.targets += targets
        self.answers += [self.n_answers] * len(rows)

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """`rows_N`, `targets_N`, `answers_N`."""
        rows, targets, answers = (torch.tensor(v, device=device) for v in (self.rows, self.targets, self.answers))
        return rows, targets, answers


def see_all(examples: Sequence[Example]) -> bool:
    """Whether a decoder is told to let the tokens of these examples, which are alike in this, see what follows them."""
    return any(example.sees_all for example in examples)


def chosen_answers(example: Example, every_answer: bool) -> tuple[tuple[int, ...], ...]:
    """Every candidate answer (to compare them), or only the right one (to learn it)."""
    if every_answer or not example.answers:
        return example.answers
    if example.target is None:
        raise ValueError(f"{example.origin}: an example without a label cannot be learned")
    return (example.answers[example.target],)
