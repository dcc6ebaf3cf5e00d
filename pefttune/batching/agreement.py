"""Can this model read ragged batches? Found out by running a few examples ragged and padded.

Recurrent layers (Mamba, LFM2, Granite hybrids) carry one example into the next whatever attention does, some models
make masks or biases of their own (ALiBi, sinks), and some take no positions. They get padded batches. So does an
encoder-decoder, untried: its decoder looks at the whole of what its encoder has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pefttune.batching.batch import Batch, see_all
from pefttune.batching.forward import hidden_rows
from pefttune.batching.padded import padded
from pefttune.batching.ragged import ragged
from pefttune.data import Example
from pefttune.errors import BaseError

# Relative distance of hidden states, ragged against padded. The same sums in another order: 1e-6 in float32, but 0.04
# in bfloat16 through 30 layers, which is why a leak from one example to another is sought by equality instead.
TOLERANCE = 1e-3
TOLERANCE_OF_HALF = 0.1
# What experts, who sort rows, may change in a row by what lies beside it; a token that is seen changes it by far more.
LAST_BITS, LAST_BITS_OF_HALF = 1e-5, 0.02
RUNS_NOT = (TypeError, ValueError, RuntimeError, AttributeError, IndexError)
EXAMPLES_TRIED = 3
ANSWERS_TRIED = 2

TRUNK, TEXT = tuple(range(5, 17)), tuple(range(60, 70))
ONE, OTHER = tuple(range(17, 33)), tuple(range(33, 49))


@torch.no_grad()
def is_causal(model: Any) -> bool:
    """Whether a token is blind to what follows it; of an encoder-decoder those that it writes are. Raises BaseError for
    a model that cannot be asked."""
    if model.config.is_encoder_decoder:
        return True
    try:
        return _is_blind(model, sees_all=False)
    except RUNS_NOT as error:
        name = type(model).__name__
        raise BaseError(f"{name} cannot be a base: it does not run on ids with a mask ({error})") from None


@torch.no_grad()
def check_sees_all(model: Any) -> None:
    """Raise BaseError for a decoder whose tokens cannot be told to see what follows them."""
    try:
        blind = _is_blind(model, sees_all=True)
    except RUNS_NOT:
        blind = True
    if blind:
        raise BaseError(
            f"task.attention: transformers runs {type(model).__name__} in one direction only, so this base cannot be "
            "bidirectional; take causal"
        )


@torch.no_grad()
def disagreement(model: Any, examples: Sequence[Example], pad_id: int, *, causal: bool) -> str | None:
    """Why this model cannot read such examples ragged; None if it can.

    Tried on the longest of them too, where a sliding window would show.
    """
    if model.config.is_encoder_decoder:
        return "its decoder would look at the texts of all examples"
    tried = [*examples[:EXAMPLES_TRIED], max(examples, key=len)]
    known = len(model.get_input_embeddings().weight)  # what lies beyond is an adapter's, and none acts
    tried = [
        replace(
            example,
            prompt=_within(known, example.prompt, pad_id),
            answers=tuple(_within(known, answer, pad_id) for answer in example.answers[:ANSWERS_TRIED]),
        )
        for example in tried
    ]
    try:
        if _leaks(model, causal, see_all(examples)):
            return "one example changes what comes of another"
        ours = hidden_rows(model, _ragged(model, tried, causal))
    except RUNS_NOT as error:
        return f"it does not run on them ({error})"
    reference = hidden_rows(model, padded(tried, pad_id, every_answer=True, device=model.device))
    if not agrees(model, ours, reference):
        return f"its hidden states differ by {_distance(ours, reference):.2g} from those of padded batches"
    return None


def _within(known: int, ids: tuple[int, ...], pad_id: int) -> tuple[int, ...]:
    return tuple(token if token < known else pad_id for token in ids)


def agrees(model: Any, ours: Tensor, reference: Tensor) -> bool:
    """Whether these hidden states or logits of the model are the same sums, at most in another order."""
    return _distance(ours, reference) <= (TOLERANCE if _is_exact(model) else TOLERANCE_OF_HALF)


def _is_blind(model: Any, sees_all: bool) -> bool:
    """Whether a token is blind to what follows it, told to see that or not: the prompt's last one, before two different
    answers."""
    examples = [Example(TRUNK, (answer,), target=0, origin="probe", sees_all=sees_all) for answer in (ONE, OTHER)]
    one, other = (
        hidden_rows(model, padded([example], 0, every_answer=True, device=model.device)) for example in examples
    )
    return _same(model, one[:1], other[:1])


def _leaks(model: Any, causal: bool, sees_all: bool) -> bool:
    """Whether a text changes the hidden states of the text that lies behind it."""
    texts = [[_text((*TRUNK, *each), sees_all) for each in (before, TEXT)] for before in (ONE, OTHER)]
    return not _same(model, *(hidden_rows(model, _ragged(model, each, causal))[-1:] for each in texts))


def _text(prompt: tuple[int, ...], sees_all: bool) -> Example:
    return Example(prompt, (), target=None, origin="probe", marks=((len(prompt) - 1, 0),), sees_all=sees_all)


def _ragged(model: Any, examples: Sequence[Example], causal: bool) -> Batch:
    return ragged(examples, every_answer=True, causal=causal, device=model.device)


def _is_exact(model: Any) -> bool:
    return model.dtype == torch.float32 and not getattr(model, "is_loaded_in_8bit", False)


def _same(model: Any, a: Tensor, b: Tensor) -> bool:
    # LLM.int8() picks the columns it computes in 16 bit by all tokens of the batch, so no row is quite its own.
    if getattr(model, "is_loaded_in_8bit", False):
        return _distance(a, b) <= TOLERANCE_OF_HALF
    return a.equal(b) or _distance(a, b) <= (LAST_BITS if _is_exact(model) else LAST_BITS_OF_HALF)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())
