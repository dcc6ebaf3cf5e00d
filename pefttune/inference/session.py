"""One resident base and any number of adapters on it, each with its own task and head. Used to evaluate, to predict,
and while training, so that what is measured is what is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pefttune import bases, methods, store, tasks
from pefttune.batching import Batch, Boundary, Outputs, is_causal, prepare
from pefttune.data import Example, Row
from pefttune.errors import AdapterError
from pefttune.inference import composing, predicting, scoring
from pefttune.inference.collating import Collator
from pefttune.inference.forward import can_share, outputs_of, outputs_together
from pefttune.inference.generation import can_write
from pefttune.inference.lengths import check_length, tokens_at_once
from pefttune.inference.loaded import Loaded, Purpose
from pefttune.inference.prompted import PromptedEncoder
from pefttune.inference.readonly import ReadOnlyEncoder
from pefttune.inference.rows import AnyRow, as_row
from pefttune.inference.sampling import Sampling
from pefttune.inference.saved import attach_again, attach_saved, read_saved
from pefttune.inference.shelf import Shelf
from pefttune.inference.writer import Writer

BASE_ITSELF = "base:"


class Session:
    """One resident base, many adapters; switching between them loads nothing.

    `max_adapter_mib` limits the memory of adapters, with the tables that several of them share: beyond it the least
    recently used of those that were loaded from folders leaves the base, and is read again when it is asked for. A
    session may be used by several threads; passes through the base, and whatever changes it, go one after another. Its
    `collator` makes the batches. An adapter of another base is refused, unless the two differ in nothing but those
    fields of their fingerprints that `may_differ`.
    """

    def __init__(
        self,
        base: bases.Base,
        max_batch_tokens: int | None = None,
        max_adapter_mib: float | None = None,
        may_differ: Collection[str] = (),
    ) -> None:
        prepare(base.model)
        self.base = base
        self.may_differ = frozenset(may_differ)
        self._mismatches: dict[str, bases.Mismatch] = {}
        self.causal = is_causal(base.model)  # whether a token is blind to what follows it: a decoder
        self.max_batch_tokens = max_batch_tokens or tokens_at_once(base.device)
        self._vocabularies = tasks.Vocabularies(base.tokenizer)
        self._shelf = Shelf(base.model, max_adapter_mib, partial(attach_again, self))
        self._active: str | None = None
        self._lock = threading.RLock()
        self.collator = Collator(base, self._lock, causal=self.causal)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the session."""
        return self._shelf.names

    @property
    def resident(self) -> tuple[str, ...]:
        """Those of them that are on the base now, the least recently used first."""
        return self._shelf.resident

    def __getitem__(self, name: str) -> Loaded:
        """The adapter of that name; `base:NAME` is the base itself, asked zero-shot to do what the adapter NAME does.
        Raises AdapterError when it is not in the session."""
        with self._lock:
            adapter = name.removeprefix(BASE_ITSELF)
            if name in self.names or adapter not in self.names or adapter == name:
                return self._shelf.get(name)
            purpose = self.purpose(adapter)
            return self.add_zero_shot(adapter, purpose.task, purpose.max_length)

    def purpose(self, name: str) -> Purpose:
        """Task and encoder of that adapter, which need not be on the base for it; otherwise as `session[name]`."""
        with self._lock:
            return self._shelf.purpose(name) if name in self.names else self[name]

    def add(self, name: str, loaded: Loaded) -> Loaded:
        """Put an adapter into the session under a free name."""
        with self._lock:
            return self._shelf.add(name, loaded)

    def add_zero_shot(self, name: str, task: tasks.Task, max_length: int) -> Loaded:
        """Put the base itself, asked to do the task, into the session as `base:NAME`. Raises AdapterError where it
        cannot be asked, BaseError or DataError where its tokenizer cannot serve."""
        asked = task.zero_shot() if self.causal else None
        if asked is None:
            raise AdapterError(f"the base of {name!r} cannot be asked to do {task.name} without an adapter")
        return self.add(BASE_ITSELF + name, Loaded(asked, self.encoder(asked, max_length), max_length))

    def stack(self, name: str, adapters: Sequence[str]) -> Loaded:
        """Put adapters of the session that act together, in this order, into it under a free name, for the task and
        with the head of the last: LoRA's updates are added up. They stay for themselves, too. Raises AdapterError."""
        with self._lock:
            return self._shelf.add(name, composing.stack(self, adapters), parts=adapters)

    def average(self, name: str, adapters: Sequence[str], weights: Sequence[float] | None = None) -> None:
        """Put an ensemble of adapters of the session into it under a free name, for `predict`, `predictions` and
        `scores`: the mean of the probabilities that each gives, or of the numbers, with these weights or equal ones.
        Raises AdapterError."""
        with self._lock:
            self._shelf.add_average(name, composing.average(self, adapters, weights), adapters)

    def load(self, folder: Path | str, name: str | None = None) -> Loaded:
        """Attach the adapter saved in `folder`, under `name` or its own.

        Nothing is attached before the files are whole and the base is the one it was trained on; if its weights do not
        fit, it is taken off again. The same weights under the same name again are no news. Raises AdapterError, also
        for other weights under a name that is taken.
        """
        hold = store.Hold(Path(folder))  # before it is read: nobody is to remove it meanwhile
        saved = read_saved(Path(folder), self.base, may_differ=self.may_differ)
        with self._lock:
            name = name or saved.manifest["name"]
            if name in self.names and self._shelf.source(name) == saved.source:
                return self[name]
            self._shelf.check_free(name)
            self._shelf.make_room(saved.source.nbytes)
            loaded = self._shelf.add(name, attach_saved(self, saved), saved.source, hold)
            self._mismatches[name] = saved.mismatch
            return loaded

    def base_mismatch(self, name: str) -> bases.Mismatch:
        """How this base differs from the one that the adapter `name` was trained on, where it was let in all the same:
        of each field what it is here and there."""
        return self._mismatches.get(name, {})

    def load_in_background(self, folder: Path | str, name: str | None = None) -> Future[Loaded]:
        """As `load`, on another thread, beside predictions: files are hashed meanwhile, and only what is attached waits
        for the pass that is under way."""
        return self._reader.submit(self.load, folder, name)

    def attach(self, task: tasks.Task, config: Any, max_length: int) -> Loaded:
        """A new, frozen adapter by the recipe's `adapter` section, with the task's encoder and head, not yet in the
        session. Raises BaseError or DataError when task, method and base do not fit together."""
        vocabulary = self._vocabularies.of(config)
        encoder = self.encoder(task, max_length, vocabulary.tokenizer)
        adapter = methods.attach(self.base.model, config, vocabulary.tokenizer, vocabulary.new)
        if adapter.virtual_ids:
            taken = max_length + len(adapter.virtual_ids)
            self.check_length(taken, "data.max_length with adapter.num_virtual_tokens")
            encoder = PromptedEncoder(encoder, adapter.virtual_ids)
        head = task.new_head(self.base.model, causal=self.causal)
        if adapter.read_only_ids and head is None:
            encoder = ReadOnlyEncoder(encoder, adapter.read_only_ids, vocabulary.tokenizer)
        own = vocabulary if vocabulary.new else None
        loaded = Loaded(task, encoder, max_length, adapter, head, vocabulary=own)
        loaded.train(False)
        return loaded

    def check_length(self, max_length: int, called: str) -> None:
        """Raise DataError, with what the limit is called, when the base has no positions for so many tokens."""
        check_length(self.base.model, max_length, called)

    def tokenizer(self, name: str) -> Any:
        """What the texts of that adapter are read and written by. Raises AdapterError."""
        own = self.purpose(name).vocabulary
        return self.base.tokenizer if own is None else own.tokenizer

    def encoder_by(self, name: str, task: tasks.Task) -> tasks.Encoder:
        """What turns rows of another task into examples as the adapter `name` reads texts: by its own tokenizer, behind
        its virtual tokens. Raises AdapterError, BaseError or DataError."""
        encoder = self.encoder(task, self.purpose(name).max_length, self.tokenizer(name))
        adapter = self[name].adapter
        return PromptedEncoder(encoder, adapter.virtual_ids) if adapter and adapter.virtual_ids else encoder

    def encoder(self, task: tasks.Task, max_length: int, tokenizer: Any = None) -> tasks.Encoder:
        """What turns rows of the task into examples for this base, by its own tokenizer or another one that extends
        it. Raises BaseError or DataError."""
        self.check_length(max_length, "data.max_length")
        kind = {"causal": self.causal, "encoder_decoder": self.base.model.config.is_encoder_decoder}
        return tasks.encoder_of(task, tokenizer or self.base.tokenizer, max_length, **kind)

    def remove(self, name: str) -> None:
        """Take an adapter off the base and forget it."""
        with self._lock:
            self._shelf.remove(name)
            self._mismatches.pop(name, None)
            if BASE_ITSELF + name in self.names:
                self._shelf.remove(BASE_ITSELF + name)
            self._active = None if self._active == name else self._active

    def use(self, name: str) -> Loaded:
        """Make `name` the adapter that acts, until another one is used."""
        with self._lock:
            loaded = self[name]
            methods.activate(self.base.model, *loaded.acting)
            self._active = name
            return loaded

    @contextmanager
    def passing(self, name: str | None) -> Iterator[None]:
        """`name` is in use, or the base itself without any adapter, and nobody else passes through the base or changes
        it, until the block ends."""
        with self._lock:
            if name is None:
                self._active = None
                methods.activate(self.base.model)
            else:
                self.use(name)
            yield

    def predict(self, rows: Iterable[AnyRow], adapter: str | Sequence[str] | None = None) -> Iterator[tasks.Prediction]:
        """A prediction for each row, in order; rows are streamed.

        A row is a mapping with the columns that the task reads, or for a task that reads one column its text. `adapter`
        is one for all, by default that in use, or one for each row: rows of several adapters share passes through the
        base. Raises AdapterError at once, DataError when a row that cannot be read is met.
        """
        whose = self._active if adapter is None else adapter
        if whose is None:
            raise AdapterError(f"no adapter is in use; call use() with one of {', '.join(self.names) or 'none'}")
        return predicting.predict(self, rows, whose)

    def parallel(self, rows: Iterable[AnyRow], adapters: Sequence[str]) -> Iterator[dict[str, tasks.Prediction]]:
        """For each row what every one of the adapters says of it, by name, in shared passes; rows are streamed, and
        must have the columns of all tasks. Otherwise as `predict`."""
        return predicting.parallel(self, rows, adapters)

    def predictions(
        self,
        name: str,
        rows: Sequence[Row],
        encoded: Sequence[tasks.Encoded],
        progress: Callable[[int], None] = lambda done: None,
        boundary: Boundary | Outputs | None = None,
    ) -> list[tasks.Prediction]:
        """Predictions of checked rows by the adapter `name`; `encoded` is what its encoder made of them. Leaves it in
        use. `progress` and `boundary` as for `scores`, of all examples of all rows; or where answers are written,
        `progress` is told how many rows are done."""
        return predicting.predictions(self, name, rows, encoded, progress, boundary)

    def generate(
        self,
        name: str,
        examples: Sequence[Example],
        generation: tasks.Generation | None = None,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[tasks.Writing]:
        """What the adapter `name` writes after the prompt of each example: as the task's `generation` says or another
        one, the likeliest token each time or drawn by `sampling`. Leaves it in use. `progress` is told how many
        examples are done. Raises AdapterError for a task that writes nothing."""
        return Writer(self, name, generation, sampling).write(examples, progress)

    def stream(
        self, name: str, row: AnyRow, generation: tasks.Generation | None = None, sampling: Sampling | None = None
    ) -> Iterator[str]:
        """The answer to one row as it is written, in pieces of whole characters; otherwise as `generate`. Other
        adapters may be used between two pieces. Raises DataError at once for a row that cannot be read."""
        writer, purpose = Writer(self, name, generation, sampling), self.purpose(name)
        return writer.stream(purpose.encoder(as_row(row, purpose.task, 1))[-1])

    def scores(
        self,
        name: str,
        examples: Sequence[Example],
        progress: Callable[[int], None] = lambda done: None,
        boundary: Boundary | Outputs | None = None,
    ) -> list[Tensor]:
        """What the task's `scores` are for each example, on the CPU, by the adapter `name`. Leaves it in use.
        `progress` is told how many examples are done. `boundary` is that of the examples, where it is known."""
        if isinstance(self.purpose(name), composing.Average):
            return self.mixed_scores([(name, example) for example in examples])
        return scoring.scores(self, name, examples, progress, boundary)

    def mixed_scores(self, asked: Sequence[tuple[str, Example]]) -> list[Tensor]:
        """As `scores`, for examples that each name their adapter: those of several share passes through the base."""
        return composing.mixed_scores(self, asked)

    def hidden_states(self, examples: Sequence[Example]) -> list[Tensor]:
        """Last hidden states (marks, D) of each example's marks, float32 on the CPU, by the base, then in use."""
        return scoring.hidden_states(self, examples)

    def loss(self, name: str, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's labelled positions, differentiable, by `name`. Leaves that in use."""
        return self.losses([(name, batch)])[0]

    def losses(self, batches: Sequence[tuple[str, Batch]]) -> list[Tensor]:
        """The loss of a batch of each of several adapters, in one pass where they can go together. Leaves none in use
        if there are several."""
        outputs = self.outputs(batches)
        return [
            self.purpose(name).task.loss(output, batch) for (name, batch), output in zip(batches, outputs, strict=True)
        ]

    def outputs(self, batches: Sequence[tuple[str, Batch]]) -> list[Tensor]:
        """What each adapter's task scores of its batch, in one pass where they can go together: a head's logits (N, C),
        or the log-likelihoods (N,) of target tokens. Leaves none in use if there are several."""
        alike: dict[bool | None, list[tuple[str, Batch]]] = {}
        for name, batch in batches:
            alike.setdefault(batch.causal, []).append((name, batch))
        found = {causal: iter(self._outputs_alike(own, causal)) for causal, own in alike.items()}
        return [next(found[batch.causal]) for _, batch in batches]

    def _outputs_alike(self, batches: Sequence[tuple[str, Batch]], causal: bool | None) -> list[Tensor]:
        """The outputs of batches that are all ragged and `causal` or not; None for those that are not ragged, or for
        which the base has nothing to do."""
        model = self.base.model
        with self._lock:
            # Where one is away, reading it may push out another: each is read when its turn comes, and only then.
            loaded = [self[name] for name, _ in batches if name in self.resident]
            alone = len(batches) == 1 or len(loaded) < len(batches)
            if alone or causal is None or not can_share(model, loaded):
                return [outputs_of(model, self.use(name), batch) for name, batch in batches]
            self._active = None
            return outputs_together(model, loaded, [batch for _, batch in batches])

    @cached_property
    def can_write(self) -> bool:
        """Whether answers can be written from ragged batches, by a base that can read those."""
        with self.passing(None):
            return can_write(self.base.model)
