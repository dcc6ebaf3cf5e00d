"""A padded batch of prompts, each with one or several candidate answers side by side.

Shapes: B examples, T padded tokens, N scored rows. With several answers the prompt stands once:
`[prompt][answer 1][answer 2]…`, each answer sees the prompt and itself, and its positions go on from the prompt's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pefttune.data import Example


@dataclass(frozen=True)
class Batch:
    """Tensors of a batch.

    `mask` is (B, T) or, where answers stand side by side, an additive (B, 1, T, T). `rows_N` are the flat (B·T)
    indices of the hidden states that are scored, `targets_N` what each should predict (a token, or a class for a head;
    -100 where unknown), `answers_N` which answer, counted through the batch, a row belongs to.
    """

    ids_BT: Tensor
    mask: Tensor
    positions_BT: Tensor
    rows_N: Tensor
    targets_N: Tensor
    answers_N: Tensor
    n_answers: int
    n_examples: int
    n_tokens: int

    @property
    def n_scored(self) -> int:
        """Labelled positions: the loss is a mean over these."""
        return len(self.rows_N)


def collate(
    examples: Sequence[Example], pad_id: int, *, every_answer: bool, device: torch.device, dtype: torch.dtype
) -> Batch:
    """Make a batch, with every candidate answer (to compare them) or only the right one (to learn it).

    `dtype` is that of the additive mask, which must be the model's.
    """
    answers = [_chosen(example, every_answer) for example in examples]
    lengths = [len(e.prompt) + sum(map(len, a)) for e, a in zip(examples, answers, strict=True)]
    width = max(lengths)
    ids = torch.full((len(examples), width), pad_id)
    positions = torch.zeros_like(ids)
    mask = torch.zeros_like(ids)
    rows: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    spans: list[list[tuple[int, int]]] = []
    n_answers = 0
    for b, (example, chosen) in enumerate(zip(examples, answers, strict=True)):
        start, prompt_end = b * width, len(example.prompt)
        mask[b, : lengths[b]] = 1
        ids[b, : lengths[b]] = torch.tensor([*example.prompt, *(token for answer in chosen for token in answer)])
        positions[b, :prompt_end] = torch.arange(prompt_end)
        spans.append([])
        if not chosen:  # a head reads the last token
            rows.append(start + prompt_end - 1)
            targets.append(-100 if example.target is None else example.target)
            owners.append(n_answers)
            n_answers += 1
        at = prompt_end
        for answer in chosen:
            positions[b, at : at + len(answer)] = prompt_end + torch.arange(len(answer))
            # The first token is predicted by the prompt's last row, each other one by the row before it.
            rows += [start + prompt_end - 1, *range(start + at, start + at + len(answer) - 1)]
            targets += answer
            owners += [n_answers] * len(answer)
            spans[-1].append((at, at + len(answer)))
            at += len(answer)
            n_answers += 1
    if any(len(chosen) > 1 for chosen in answers):
        mask = _side_by_side_mask([len(e.prompt) for e in examples], spans, width, dtype)
    return Batch(
        ids.to(device),
        mask.to(device),
        positions.to(device),
        torch.tensor(rows, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(owners, device=device),
        n_answers,
        len(examples),
        sum(lengths),
    )


def _chosen(example: Example, every_answer: bool) -> tuple[tuple[int, ...], ...]:
    if every_answer or not example.answers:
        return example.answers
    if example.target is None:
        raise ValueError(f"{example.origin}: an example without a label cannot be learned")
    return (example.answers[example.target],)


def _side_by_side_mask(
    prompt_lengths: Sequence[int], spans: Sequence[Sequence[tuple[int, int]]], width: int, dtype: torch.dtype
) -> Tensor:
    """Additive (B, 1, T, T): causal, and blind from one answer to another. Padding rows see themselves, not nothing,
    since a softmax over nothing is NaN."""
    seen = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(prompt_lengths), 1, 1)
    for b, prompt_length in enumerate(prompt_lengths):
        for start, end in spans[b]:
            seen[b, start:end, prompt_length:start] = False
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return mask[:, None]
