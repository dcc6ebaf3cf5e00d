"""A padded batch for an encoder-decoder: texts for the encoder, and what its decoder writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pefttune.batching.batch import Batch, chosen_answers
from pefttune.data import UNKNOWN, Example


def paired(
    examples: Sequence[Example],
    pad_id: int,
    shift: Callable[[Tensor], Tensor],
    *,
    every_answer: bool,
    device: torch.device,
) -> Batch:
    """Make a batch of prompt and answer side by side, with every candidate answer or only the right one.

    `shift` makes of labels, -100 where there is none, what the decoder reads: the model's own way of it.
    """
    pairs = [
        (example.prompt, answer) for example in examples for answer in chosen_answers(example, every_answer) or ((),)
    ]
    prompts = [torch.tensor(prompt) for prompt, _ in pairs]
    labels_BU = pad_sequence([torch.tensor(answer) for _, answer in pairs], True, UNKNOWN).long().to(device)
    ids_BT = pad_sequence(prompts, True, pad_id).to(device)
    answers_N, _ = torch.nonzero(labels_BU != UNKNOWN, as_tuple=True)
    rows_N = torch.nonzero(labels_BU.flatten() != UNKNOWN)[:, 0]
    return Batch(
        ids_BT,
        torch.arange(ids_BT.shape[1], device=device).expand(ids_BT.shape),
        rows_N,
        labels_BU.flatten()[rows_N],
        answers_N,
        n_answers=len(pairs),
        n_scored=len(rows_N),
        n_examples=len(examples),
        n_tokens=sum(len(prompt) + len(answer) for prompt, answer in pairs),
        padding_mask_BT=pad_sequence([torch.ones_like(prompt) for prompt in prompts], True).to(device),
        decoder_ids_BU=shift(labels_BU),
    )
