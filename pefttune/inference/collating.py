"""How examples become batches for one base: ragged where it reads those, otherwise padded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from pefttune import bases
from pefttune.batching import Batch, Boundary, Outputs, check_sees_all, disagreement, padded, paired, ragged, see_all
from pefttune.data import Example


class Collator:
    """Makes batches for the base, ragged or padded as it has found out by trying. `lock` is held while it tries."""

    def __init__(self, base: bases.Base, lock: AbstractContextManager[Any], *, causal: bool) -> None:
        self._base, self._lock, self._causal = base, lock, causal
        self._ragged: dict[bool, bool | None] = {}  # by whether the examples are told to see all
        tokenizer = base.tokenizer
        self._pad_id: int = (tokenizer.eos_token_id or 0) if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @property
    def ragged(self) -> bool | None:
        """Whether batches are; None until `try_ragged` has found out. Set for all, it is not asked any more. Those of
        bidirectional tasks on a decoder are found out about for themselves (`is_ragged`)."""
        return self._ragged.get(False)

    @ragged.setter
    def ragged(self, ragged: bool | None) -> None:
        self._ragged = {False: ragged, True: ragged}

    def is_ragged(self, examples: Sequence[Example]) -> bool | None:
        """Whether batches of such examples are ragged; None until `try_ragged` has found out."""
        return self._ragged.get(see_all(examples))

    def found_ragged(self, examples: Sequence[Example]) -> bool:
        """As `is_ragged`, but found out now if it has not been yet."""
        if self.is_ragged(examples) is None:
            self.try_ragged(examples)
        return bool(self.is_ragged(examples))

    def try_ragged(self, examples: Sequence[Example]) -> str | None:
        """Run a few of the examples both ways. Why all batches like them will be padded from now on, if they will.
        Raises BaseError where they are bidirectional and the base cannot be."""
        if self.is_ragged(examples) is False or not examples:
            return None
        with self._lock:  # what a decoder's tokens see stands in its config while padded ones pass
            if see_all(examples):
                check_sees_all(self._base.model)
            reason = disagreement(self._base.model, examples, self._pad_id, causal=self._causal)
        self._ragged[see_all(examples)] = reason is None
        return reason

    def collate(self, examples: Sequence[Example], *, every_answer: bool) -> Batch:
        """A batch on the base's device, ragged if the base can read that."""
        model, device = self._base.model, self._base.device
        if self.found_ragged(examples):
            return ragged(examples, every_answer=every_answer, causal=self._causal, device=device)
        if model.config.is_encoder_decoder:
            shift = model.prepare_decoder_input_ids_from_labels
            return paired(examples, self._pad_id, shift, every_answer=every_answer, device=device)
        return padded(examples, self._pad_id, every_answer=every_answer, device=device)

    def batch(
        self,
        examples: Sequence[Example],
        indices: Sequence[int],
        boundary: Boundary | Outputs | None,
        *,
        every_answer: bool,
    ) -> Batch:
        """The batch of those of the examples, which begins where their `boundary` is, if that is known."""
        if isinstance(boundary, Outputs):
            return boundary.batch(indices, self._base.device)
        batch = self.collate([examples[i] for i in indices], every_answer=every_answer)
        return batch if boundary is None else boundary.enter(batch, indices)
