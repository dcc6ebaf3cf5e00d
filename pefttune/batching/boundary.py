"""The boundary cache: what enters the lowest adapted layer, computed once for each example and kept on disk.

The layers below never change, so neither does this: later epochs, evaluations and runs begin there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pefttune.batching.batch import Batch, Entering, chosen_answers, see_all
from pefttune.batching.forward import hidden_rows, inputs_of, logits_are_linear
from pefttune.batching.kept import kept, key_of
from pefttune.batching.layers import decoder_layers, entering
from pefttune.batching.plan import fill
from pefttune.batching.ragged import ragged
from pefttune.batching.tree import shared_length
from pefttune.data import Example


@dataclass(frozen=True)
class Boundary:
    """States (rows, D) of a list of examples: those of the trunk all of them share, then each example's own."""

    layer: int
    states: Tensor
    trunk: int
    starts: tuple[int, ...]

    def enter(self, batch: Batch, indices: Sequence[int]) -> Batch:
        """The ragged batch of the examples `indices`, told what enters the layer."""
        runs = []
        for source in batch.sources:
            for row, length in self._rows(indices[source.examples[0]], source.offset, source.length):
                runs.append(self.states[row : row + length])
        return replace(batch, entering=Entering(self.layer, torch.cat(runs).to(batch.ids_BT.device)))

    def _rows(self, example: int, offset: int, length: int) -> list[tuple[int, int]]:
        """Where `length` states from `offset` on lie: partly in the trunk, partly in the example's own."""
        in_trunk = min(length, max(0, self.trunk - offset))
        own = (self.starts[example] + offset + in_trunk - self.trunk, length - in_trunk)
        return [run for run in ((offset, in_trunk), own) if run[1]]

    def keep(self, batch: Batch, indices: Sequence[int], hidden_TD: Tensor) -> None:
        """Write the states of a batch."""
        at = 0
        for source in batch.sources:
            for example in source.examples:
                done = at
                for row, length in self._rows(indices[example], source.offset, source.length):
                    self.states[row : row + length] = hidden_TD[done : done + length]
                    done += length
            at += source.length


def open_boundary(
    folder: Path,
    model: Any,
    layer: int,
    examples: Sequence[Example],
    *,
    every_answer: bool,
    causal: bool,
    base_digest: str,
    max_tokens: int,
    notice: Callable[[str], None],
    progress: Callable[[int], None],
) -> Boundary | None:
    """The boundary cache of these examples in `folder`, filled if it is not there yet.

    None, after a notice, where the model cannot be cut at `layer` or the disk has no room: then every pass begins at
    the first layer, with the same result. `progress` is told how many examples are done.
    """
    if not _can_be_cut(model, layer, examples, causal):
        notice("the frozen layers are run again in every pass: this base cannot be entered at a layer")
        return None
    fed = [_fed(example, every_answer) for example in examples]
    contents = [see_all(examples), [(example.prompt, chosen_answers(example, every_answer)) for example in examples]]
    # Where a token sees what follows it, what is the same in all prompts becomes something else in each.
    trunk = _shared_by_all([example.prompt for example in examples]) if causal and not see_all(examples) else 0
    starts, rows = [], trunk
    for tokens in fed:
        starts.append(rows)
        rows += len(tokens) - trunk
    shape = (rows, model.config.get_text_config().hidden_size)
    name = key_of(base_digest, layer, model, max_tokens, contents)
    boundary = Boundary(layer, torch.empty(0), trunk, tuple(starts))

    def fill_in(states: Tensor) -> None:
        _run_through(replace(boundary, states=states), model, examples, every_answer, causal, max_tokens, progress)

    states = kept(folder / f"{name}.bin", shape, model.dtype, fill_in, notice)
    return None if states is None else replace(boundary, states=states)


def _run_through(
    boundary: Boundary,
    model: Any,
    examples: Sequence[Example],
    every_answer: bool,
    causal: bool,
    max_tokens: int,
    progress: Callable[[int], None],
) -> None:
    """Run all examples through the frozen layers and keep what comes out."""
    done = 0
    for indices in fill(examples, range(len(examples)), max_tokens, every_answer=every_answer):
        batch = ragged([examples[i] for i in indices], every_answer=every_answer, causal=causal, device=model.device)
        boundary.keep(batch, indices, entering(model, boundary.layer, inputs_of(batch)).cpu())
        progress(done := done + len(indices))


def _fed(example: Example, every_answer: bool) -> tuple[int, ...]:
    """The tokens that the model reads of an example, in the order of `Source.offset`."""
    return (*example.prompt, *(t for answer in chosen_answers(example, every_answer) for t in answer[:-1]))


def _shared_by_all(prompts: Sequence[tuple[int, ...]]) -> int:
    return shared_length(min(prompts), max(prompts)) if len(prompts) > 1 else 0


@torch.no_grad()
def _can_be_cut(model: Any, layer: int, examples: Sequence[Example], causal: bool) -> bool:
    """Whether the rest of the model, entered with what its lower layers give, gives what the whole model does."""
    if decoder_layers(model) is None or not logits_are_linear(model):
        return False
    batch = ragged(examples[:2], every_answer=True, causal=causal, device=model.device)
    try:
        upper = replace(batch, entering=Entering(layer, entering(model, layer, inputs_of(batch))))
        return torch.equal(hidden_rows(model, upper), hidden_rows(model, batch))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
