"""Answers by transformers' own `generate`: with beams, or for a model that cannot read ragged batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from pefttune.bases import Base
from pefttune.inference.generation import Tokens
from pefttune.inference.sampling import Sampling
from pefttune.tasks import Generation

# Those of the model's own settings that name tokens: its language, and which may not be written at all or at first. And
# the ends, which another thread may ask the model for meanwhile.
OF_TOKENS = (
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)


@torch.no_grad()
def written_by_transformers(
    base: Base,
    tokenizer: Any,
    prompts: Sequence[Tokens],
    generation: Generation,
    ends: frozenset[int],
    sampling: Sampling | None = None,
    never: frozenset[int] = frozenset(),
) -> list[list[int]]:
    """The tokens of an answer to each prompt, `never` one of those; `tokenizer` finds stop texts in them."""
    pad_id, apart = min(ends), base.model.config.is_encoder_decoder
    side = "right" if apart else "left"
    ids_BW = pad_sequence([torch.tensor(prompt) for prompt in prompts], True, pad_id, side)
    mask_BW = pad_sequence([torch.ones(len(prompt), dtype=torch.long) for prompt in prompts], True, 0, side)
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling else {}
    config = GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_new_tokens,
        num_beams=generation.num_beams,
        stop_strings=list(generation.stop) or None,
        eos_token_id=sorted(ends),
        pad_token_id=pad_id,
        suppress_tokens=[*(base.model.generation_config.suppress_tokens or ()), *sorted(never)] or None,
        do_sample=sampling is not None,
        **drawn,
    )
    with torch.random.fork_rng(enabled=sampling is not None), _own_settings_of_tokens(base.model):
        if sampling is not None:
            torch.manual_seed(sampling.seed)
        written_BW = base.model.generate(
            input_ids=ids_BW.to(base.device),
            attention_mask=mask_BW.to(base.device),
            generation_config=config,
            # For stop texts it calls the tokenizer, which other threads use (`tasks.tokenizing`).
            tokenizer=copy.deepcopy(tokenizer) if generation.stop else None,
        )
    first = 1 if apart else ids_BW.shape[1]  # behind the prompt, or what a decoder begins with
    answers = [_until_end(row, ends) for row in written_BW[:, first:].tolist()]
    if base.model.generation_config.forced_eos_token_id is None:
        return answers
    # BART's end is put in place of the last token allowed, whatever the model would say: that is no end.
    return [own[:-1] if 1 < len(own) == generation.max_new_tokens and own[-1] in ends else own for own in answers]


@contextmanager
def _own_settings_of_tokens(model: Any) -> Iterator[None]:
    """transformers would fill in from the model's own settings what it is not told, though recipe and card do not tell
    them either: only those of tokens are left."""
    theirs = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(theirs, name) for name in OF_TOKENS})
    try:
        yield
    finally:
        model.generation_config = theirs


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens, start=1) if token in ends), len(tokens))
    return tokens[:end]
