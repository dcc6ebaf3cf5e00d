"""The last hidden states that a head alone reads, computed once for each example and kept on disk.

With no layer to adapt, the whole base lies below: later epochs, evaluations and runs have only the head to compute.
Shapes: N scored rows of a batch, D the width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pefttune.batching.batch import Batch, Scored, see_all
from pefttune.batching.kept import kept, key_of
from pefttune.data import UNKNOWN, Example

StatesOf = Callable[[Sequence[Example]], Iterator[tuple[Sequence[int], Tensor]]]


@dataclass(frozen=True)
class Outputs:
    """Last hidden states (rows, D) of `examples`: only those that are marked, each once. `rows` says for each example
    where those of its marks lie."""

    examples: Sequence[Example]
    states: Tensor
    rows: tuple[tuple[int, ...], ...]

    def batch(self, indices: Sequence[int], device: torch.device) -> Batch:
        """The batch of the examples `indices`: no ids, but the hidden states of its scored rows."""
        scored = Scored()
        for i in indices:
            scored.marks(self.rows[i], self.examples[i])
        rows_N, targets_N, answers_N = scored.tensors(device)
        return Batch(
            rows_N.new_empty(1, 0),
            rows_N.new_empty(1, 0),
            torch.arange(len(rows_N), device=device),
            targets_N,
            answers_N,
            n_answers=scored.n_answers,
            n_scored=scored.n_labelled,
            n_examples=len(indices),
            n_tokens=sum(len(self.examples[i].prompt) for i in indices),
            known_ND=self.states[scored.rows].to(device),
        )


def open_outputs(
    folder: Path,
    model: Any,
    examples: Sequence[Example],
    states_of: StatesOf,
    *,
    ragged: bool,
    base_digest: str,
    max_tokens: int,
    notice: Callable[[str], None],
    progress: Callable[[int], None],
) -> Outputs | None:
    """The outputs of the base for these examples in `folder`, filled in if they are not there yet.

    `states_of` runs examples through the base: batch by batch, which of them, and the states (N, D) of their marks.
    None, after a notice, where the disk has no room. `progress` is told how many examples are done.
    """
    read = [_each_once(example) for example in examples]
    starts = list(accumulate((len(example.marks) for example in read), initial=0))
    contents = [
        ragged,
        see_all(examples),
        [(example.prompt, [position for position, _ in example.marks]) for example in read],
    ]

    def fill_in(states: Tensor) -> None:
        done = 0
        for indices, own in states_of(read):
            parts = own.cpu().split([len(read[i].marks) for i in indices])
            for i, part in zip(indices, parts, strict=True):
                states[starts[i] : starts[i + 1]] = part
            progress(done := done + len(indices))

    config = model.config.get_text_config()
    shape = (starts[-1], getattr(config, "word_embed_proj_dim", config.hidden_size))  # OPT's may be narrower
    name = key_of(base_digest, "outputs", model, max_tokens, contents)
    states = kept(folder / f"{name}.bin", shape, model.dtype, fill_in, notice)
    if states is None:
        return None
    return Outputs(examples, states, tuple(map(_rows, examples, read, starts[:-1])))


def _each_once(example: Example) -> Example:
    """The example with every marked position once: with several labels, each has a mark of its own there."""
    return replace(example, marks=tuple((position, UNKNOWN) for position in sorted(dict(example.marks))))


def _rows(example: Example, read: Example, start: int) -> tuple[int, ...]:
    places = {position: start + i for i, (position, _) in enumerate(read.marks)}
    return tuple(places[position] for position, _ in example.marks)
