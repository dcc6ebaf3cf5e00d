"""A padded batch: the reference that ragged batches are compared with, and the form for models that cannot read them.

One row of the batch is one prompt with one answer: nothing is shared, nothing is packed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttune.batching.batch import Batch, Scored, chosen_answers, see_all
from pefttune.data import Example


def padded(examples: Sequence[Example], pad_id: int, *, every_answer: bool, device: torch.device) -> Batch:
    """Make a padded batch, with every candidate answer (each behind a prompt of its own) or only the right one."""
    chosen = [(example, answers) for example in examples for answers in [chosen_answers(example, every_answer)]]
    sequences = [(*e.prompt, *answer) for e, answers in chosen for answer in answers or [()]]
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros_like(ids)
    scored = Scored()
    b = 0
    for example, answers in chosen:
        for answer in answers or [()]:
            sequence = sequences[b]
            ids[b, : len(sequence)] = torch.tensor(sequence)
            mask[b, : len(sequence)] = 1
            start = b * width + len(example.prompt)
            if not answer or (example.marks and answer is answers[0]):
                scored.marks([b * width + position for position, _ in example.marks], example)
            if answer:
                scored.answer(start - 1, start, answer)
            b += 1
    return Batch(
        ids.to(device),
        torch.arange(width, device=device).expand(len(sequences), width),
        *scored.tensors(device),
        n_answers=scored.n_answers,
        n_scored=scored.n_labelled,
        n_examples=len(examples),
        n_tokens=sum(map(len, sequences)),
        padding_mask_BT=mask.to(device),
        sees_all=see_all(examples),
    )
