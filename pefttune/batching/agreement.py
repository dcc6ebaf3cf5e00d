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

from pefttune.batching.batch import Batch
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
    examples = [Example(TRUNK, (answer,), target=0, origin="probe") for answer in (ONE, OTHER)]
    try:
        one, other = (
            hidden_rows(model, padded([example], 0, every_answer=True, device=model.device)) for example in examples
        )
    except RUNS_NOT as error:
        name = type(model).__name__
        raise BaseError(f"{name} cannot be a base: it does not run on ids with a mask ({error})") from None
    return _same(model, one[:1], other[:1])  # the prompt's last row, before two different answers


@torch.no_grad()
def disagreement(model: Any, examples: Sequence[Example], pad_id: int, *, causal: bool) -> str | None:
    """Why this model cannot read such examples ragged; None if it can.

    Tried on the longest of them too, where a sliding window would show.
    """
    if model.config.is_encoder_decoder:
        return "its decoder would look at the texts of all examples"
    tried = [*examples[:EXAMPLES_TRIED], max(examples, key=len)]
    tried = [replace(example, answers=example.answers[:ANSWERS_TRIED]) for example in tried]
    try:
        if _leaks(model, causal):
            return "one example changes what comes of another"
        ours = hidden_rows(model, _ragged(model, tried, causal))
    except RUNS_NOT as error:
        return f"it does not run on them ({error})"
    reference = hidden_rows(model, padded(tried, pad_id, every_answer=True, device=model.device))
    if not agrees(model, ours, reference):
        return f"its hidden states differ by {_distance(ours, reference):.2g} from those of padded batches"
    return None


def agrees(model: Any, ours: Tensor, reference: Tensor) -> bool:
    """Whether these hidden states or logits of the model are the same sums, at most in another order."""
    return _distance(ours, reference) <= (TOLERANCE if _is_exact(model) else TOLERANCE_OF_HALF)


def _leaks(model: Any, causal: bool) -> bool:
    """Whether a text changes the hidden states of the text that lies behind it."""
    behind = [
        hidden_rows(model, _ragged(model, [_text((*TRUNK, *before)), _text((*TRUNK, *TEXT))], causal))[-1:]
        for before in (ONE, OTHER)
    ]
    return not _same(model, *behind)


def _text(prompt: tuple[int, ...]) -> Example:
    return Example(prompt, (), target=None, origin="probe", marks=((len(prompt) - 1, 0),))


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
