"""What enters the base's linear layers when it reads examples: measured in one pass, without any adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pefttune.batching import evaluation_batches, inputs_of
from pefttune.data import Example
from pefttune.methods import Sketch

if TYPE_CHECKING:
    from pefttune.inference.session import Session


@torch.no_grad()
def input_sketches(
    session: Session,
    linears: Mapping[str, nn.Linear],
    most: Mapping[str, int],
    examples: Sequence[Example],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Sketch]:
    """For each of the base's linear layers a sketch of its inputs, for as many leading directions as `most` says, over
    all tokens of the examples. `progress` is told how many examples are done."""
    device, model = session.base.device, session.base.model
    sketches = {name: Sketch(linear.in_features, most[name], device) for name, linear in linears.items()}
    done = 0
    for indices in _plan(session, examples):
        batch = session.collator.collate([examples[i] for i in indices], every_answer=False)
        with session.passing(None), _watched(linears, sketches):
            model.base_model(**inputs_of(batch))
        progress(done := done + len(indices))
    return sketches


def _plan(session: Session, examples: Sequence[Example]) -> list[list[int]]:
    """Which examples go together: one by one where they would be padded, since a layer cannot tell padding."""
    if session.collator.found_ragged(examples):
        return evaluation_batches(examples, session.max_batch_tokens, ragged=True)
    return [[i] for i in range(len(examples))]


@contextmanager
def _watched(linears: Mapping[str, nn.Linear], sketches: Mapping[str, Sketch]) -> Iterator[None]:
    """Every input of the layers goes into their sketches while the block runs."""

    def watching(sketch: Sketch) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: sketch.add(inputs[0].flatten(0, -2))

    with ExitStack() as stack:
        for name, linear in linears.items():
            stack.callback(linear.register_forward_pre_hook(watching(sketches[name])).remove)
        yield
