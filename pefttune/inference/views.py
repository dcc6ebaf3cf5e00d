"""A frozen base's views of examples: what stands behind some of its layers, as a head would read it or as a mean over
the text. Computed once for each example and kept on disk. Shapes: U units (texts, or words), D the width of the states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pefttune.batching import evaluation_batches, stack_of, states_behind
from pefttune.batching.kept import kept, key_of
from pefttune.batching.tree import shared_length
from pefttune.data import UNKNOWN, Example, cache_dir

if TYPE_CHECKING:
    from pefttune.inference.session import Session

DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Where a base is looked into, as parts of its layers."""


@dataclass(frozen=True)
class View:
    """A layer, counted from 1, and how what stands behind it is read: at the token that a `head` reads, or as the
    `mean` over the tokens in which texts differ."""

    layer: int
    pooling: str

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.pooling}"


def views_of(
    session: Session,
    examples: Sequence[Example],
    notice: Callable[[str], None],
    progress: Callable[[int], None],
    adapter: str | None = None,
) -> dict[View, np.ndarray]:
    """The views (U, D) of the examples' units, in float32: by the base itself, from the cache on disk; or behind the
    last layer with an adapter of the session acting. `progress` is told how many examples are done."""
    config = session.base.model.config.get_text_config()
    width, last = getattr(config, "word_embed_proj_dim", config.hidden_size), config.num_hidden_layers
    inside = adapter is None and width == config.hidden_size and stack_of(session.base.model) is not None
    layers = sorted({max(1, round(depth * last)) for depth in DEPTHS}) if inside else [last]
    read = _read(examples)
    poolings = ("head", "mean") if all(example.reads == 1 for example in read) else ("head",)
    views = [View(layer, pooling) for layer in layers for pooling in poolings]
    units = sum(each.reads for each in read)

    def fill_in(states: Tensor) -> None:
        _fill(states.view(len(layers), len(poolings), units, width), session, read, layers, adapter, progress)

    states = None
    shape = (len(views) * units, width)
    if adapter is None:
        contents = [layers, session.collator.found_ragged(examples), [each.contents for each in read]]
        name = key_of(session.base.fingerprint.digest, "views", session.base.model, session.max_batch_tokens, contents)
        path = cache_dir() / "boundaries" / f"{name}.bin"
        states = kept(path, shape, session.base.model.dtype, fill_in, notice)
    if states is None:
        states = torch.empty(shape, dtype=session.base.model.dtype)
        fill_in(states)
    progress(len(examples))
    return dict(zip(views, states.view(len(views), units, width).float().numpy(), strict=True))


@dataclass(frozen=True)
class _Read:
    """An example without its answers, all that is read of it marked: first what a head reads, then its own tokens."""

    example: Example
    reads: int

    @property
    def contents(self) -> tuple[tuple[int, ...], list[int]]:
        return self.example.prompt, [position for position, _ in self.example.marks]


def _read(examples: Sequence[Example]) -> list[_Read]:
    prompts = [example.prompt for example in examples]
    turned = [prompt[::-1] for prompt in prompts]
    before, after = (shared_length(min(each), max(each)) for each in (prompts, turned))
    result = []
    for example in examples:
        end = len(example.prompt)
        heads = [position for position, _ in example.marks] if not example.answers else []
        heads = heads or [end - 1]
        own = list(range(min(before, end - 1), max(end - after, min(before, end - 1) + 1)))
        marks = tuple((position, UNKNOWN) for position in [*heads, *own])
        result.append(_Read(replace(example, answers=(), target=None, marks=marks), len(heads)))
    return result


def _fill(
    states: Tensor,
    session: Session,
    read: Sequence[_Read],
    layers: Sequence[int],
    adapter: str | None,
    progress: Callable[[int], None],
) -> None:
    """Write `states` (layers, poolings, U, D), batch by batch."""
    examples, done = [each.example for each in read], 0
    starts = list(accumulate((each.reads for each in read), initial=0))
    ragged = session.collator.found_ragged(examples)
    for indices in evaluation_batches(examples, session.max_batch_tokens, ragged=ragged):
        batch = session.collator.collate([examples[i] for i in indices], every_answer=True)
        with session.passing(adapter):
            behind = states_behind(session.base.model, batch, layers)
        for into, of_layer in zip(states, behind, strict=True):
            parts = of_layer.cpu().split([len(examples[i].marks) for i in indices])
            for i, part in zip(indices, parts, strict=True):
                reads = read[i].reads
                into[0, starts[i] : starts[i + 1]] = part[:reads]
                if len(into) > 1:
                    into[1, starts[i]] = part[reads:].float().mean(0)
        progress(done := done + len(indices))
