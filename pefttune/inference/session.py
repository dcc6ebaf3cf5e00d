"""One resident base and any number of adapters on it, each with its own task and head. Used to evaluate, to predict,
and while training, so that what is measured is what is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pefttune import (  # bases first: it keeps bitsandbytes from fetching code, peft does not
    bases,
    methods,
    store,
    tasks,
)
from pefttune.batching import (
    Batch,
    Boundary,
    disagreement,
    evaluation_batches,
    hidden_rows,
    is_causal,
    join,
    log_likelihoods,
    logits_are_linear,
    open_boundary,
    padded,
    paired,
    prepare,
    ragged,
    target_log_likelihoods,
)
from pefttune.data import Example, Row, cache_dir, take_columns
from pefttune.data.columns import NoColumn
from pefttune.data.faults import RowFault
from pefttune.errors import AdapterError, DataError
from pefttune.inference.generation import Sampling, can_write
from pefttune.inference.loaded import Loaded
from pefttune.inference.shelf import Shelf, Source
from pefttune.inference.writer import Writer
from pefttune.recipe import Recipe, recipe_from_mapping

ROWS_AT_ONCE = 512
# Products of so many rows run at full speed on a processor, and more rows would only need more memory (docs/LOG.md).
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_GPU = 640, 16_384
BASE_ITSELF = "base:"

AnyRow = Row | Mapping[str, Any] | str


@dataclass(frozen=True)
class Saved:
    """What was found, whole, in an adapter's folder."""

    manifest: dict[str, Any]
    recipe: Recipe
    source: Source


class Session:
    """One resident base, many adapters; switching between them loads nothing.

    `max_adapter_mib` limits the memory of adapters that were loaded from folders: beyond it the least recently used one
    leaves the base, and is read again when it is asked for. A session may be used by several threads; passes through
    the base, and whatever changes it, go one after another.
    """

    def __init__(
        self, base: bases.Base, max_batch_tokens: int | None = None, max_adapter_mib: float | None = None
    ) -> None:
        prepare(base.model)
        self.base = base
        self.causal = is_causal(base.model)
        """Whether a token is blind to what follows it: a decoder, or that of an encoder-decoder, not an encoder."""
        on_gpu = base.device.type == "cuda"
        self.max_batch_tokens = max_batch_tokens or (TOKENS_AT_ONCE_ON_GPU if on_gpu else TOKENS_AT_ONCE)
        self.ragged: bool | None = None
        """Whether batches are ragged; None until `try_ragged` has found out."""
        limit = None if max_adapter_mib is None else int(max_adapter_mib * 2**20)
        self._shelf = Shelf(limit, lambda source: self._attached(self._checked(source.folder, source)))
        self._active: str | None = None
        self._lock = threading.RLock()
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

        Raises AdapterError when it is not in the session.
        """
        with self._lock:
            adapter = name.removeprefix(BASE_ITSELF)
            if name in self.names or adapter not in self.names or adapter == name:
                return self._shelf.get(name)
            return self.add_zero_shot(adapter, self[adapter].task, self[adapter].max_length)

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

    def load(self, folder: Path | str, name: str | None = None) -> Loaded:
        """Attach the adapter saved in `folder`, under `name` or its own.

        Nothing is attached before the files are whole and the base is the one it was trained on; if its weights do not
        fit, it is taken off again. The same weights under the same name again are no news. Raises AdapterError, also
        for other weights under a name that is taken.
        """
        saved = self._checked(Path(folder))
        with self._lock:
            name = name or saved.manifest["name"]
            if name in self.names and self._shelf.source(name) == saved.source:
                return self[name]
            if name in self.names:
                raise AdapterError(f"the session already holds another adapter {name!r}; remove it first")
            return self._shelf.add(name, self._attached(saved), saved.source)

    def load_in_background(self, folder: Path | str, name: str | None = None) -> Future[Loaded]:
        """As `load`, on another thread, beside predictions: files are hashed meanwhile, and only what is attached waits
        for the pass that is under way."""
        return self._reader.submit(self.load, folder, name)

    def _checked(self, folder: Path, expected: Source | None = None) -> Saved:
        """What is saved in `folder`, whole and for this base. Raises AdapterError, also when it is not what is
        expected there."""
        manifest = store.read_manifest(folder)
        source = Source(folder, manifest["files"][methods.weights.WEIGHTS])
        if expected is not None and source != expected:
            raise AdapterError(f"{folder} holds other weights than when it was loaded; remove the adapter and load it")
        trained_on = bases.Fingerprint(**manifest["base"]["fingerprint"])
        if differences := self.base.fingerprint.differences(trained_on):
            raise AdapterError(
                f"{manifest['name']} was trained on another base ({manifest['base']['source']}, "
                f"{manifest['base']['origin']}). They differ in: " + "; ".join(differences)
            )
        recipe = recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}")
        return Saved(manifest, recipe, source)

    def _attached(self, saved: Saved) -> Loaded:
        """A saved adapter on the base, not yet in the session."""
        task = tasks.get(saved.recipe.task).with_labels(saved.manifest["labels"])
        with self._lock:
            loaded = self.attach(task, saved.recipe.adapter, saved.recipe.data.max_length)
            try:
                loaded.load_state(methods.weights.read(saved.source.folder, loaded.parameters))
            except BaseException:
                if loaded.adapter is not None:
                    loaded.adapter.detach()
                raise
        return loaded

    def attach(self, task: tasks.Task, config: Any, max_length: int) -> Loaded:
        """A new, frozen adapter by the recipe's `adapter` section, with the task's encoder and head, not yet in the
        session. Raises BaseError or DataError when task, method and base do not fit together."""
        encoder = self.encoder(task, max_length)
        adapter = methods.attach(self.base.model, config)
        loaded = Loaded(task, encoder, max_length, adapter, task.new_head(self.base.model, causal=self.causal))
        loaded.train(False)
        return loaded

    def check_length(self, max_length: int, called: str) -> None:
        """Raise DataError, with what the limit is called, when the base has no positions for so many tokens."""
        positions = _positions(self.base.model)
        if positions is not None and max_length > positions:
            raise DataError(f"{called}: {max_length} tokens are more than this base reads; it has {positions}")

    def encoder(self, task: tasks.Task, max_length: int) -> tasks.Encoder:
        """What turns rows of the task into examples for this base. Raises BaseError or DataError."""
        self.check_length(max_length, "data.max_length")
        kind = {"causal": self.causal, "encoder_decoder": self.base.model.config.is_encoder_decoder}
        return tasks.encoder_of(task, self.base.tokenizer, max_length, **kind)

    def remove(self, name: str) -> None:
        """Take an adapter off the base and forget it."""
        with self._lock:
            self._shelf.remove(name)
            if BASE_ITSELF + name in self.names:
                self._shelf.remove(BASE_ITSELF + name)
            self._active = None if self._active == name else self._active

    def use(self, name: str) -> Loaded:
        """Make `name` the adapter that acts, until another one is used."""
        with self._lock:
            loaded = self[name]
            methods.activate(self.base.model, loaded.adapter)
            self._active = name
            return loaded

    @contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """`name` is in use, and nobody else passes through the base or changes it, until the block ends."""
        with self._lock:
            self.use(name)
            yield

    def predict(self, rows: Iterable[AnyRow], adapter: str | Sequence[str] | None = None) -> Iterator[tasks.Prediction]:
        """A prediction for each row, in order; rows are streamed.

        A row is a mapping with the columns that the task reads, or for a task that reads one column its text. `adapter`
        is one for all, by default that in use, or one for each row: rows of several adapters share passes through the
        base. Raises AdapterError at once, DataError when a row that cannot be read is met.
        """
        if isinstance(rows, str):
            raise DataError("predict() takes several texts: give a list, [text], also for one")
        if adapter is None and self._active is None:
            raise AdapterError(f"no adapter is in use; call use() with one of {', '.join(self.names) or 'none'}")
        one = adapter or self._active or ""
        names = repeat(one) if isinstance(one, str) else iter(list(one))
        for name in [one] if isinstance(one, str) else dict.fromkeys(one):
            self[name]
        return self._predict(rows, names)

    def _predict(self, rows: Iterable[AnyRow], names: Iterator[str]) -> Iterator[tasks.Prediction]:
        numbered = enumerate(rows, start=1)
        while chunk := list(islice(numbered, ROWS_AT_ONCE)):
            whose = list(islice(names, len(chunk)))
            if len(whose) < len(chunk):
                raise DataError(f"text {chunk[len(whose)][0]}: there are more rows than adapters named for them")
            own = [self[name] for name in whose]
            checked = [_as_row(row, one.task, number) for (number, row), one in zip(chunk, own, strict=True)]
            encoded = [one.encoder(row) for one, row in zip(own, checked, strict=True)]
            yield from self._of_several(whose, checked, encoded)

    def _of_several(
        self, whose: Sequence[str], rows: Sequence[Row], encoded: Sequence[tasks.Encoded]
    ) -> list[tasks.Prediction]:
        """Predictions of rows that each name their adapter: scores of all in shared passes, answers written by one
        adapter after the other."""
        result: dict[int, tasks.Prediction] = {}
        writers = {name for name in whose if self[name].task.generation is not None}
        for name in sorted(writers):
            indices = [i for i, other in enumerate(whose) if other == name]
            written = self.predictions(name, [rows[i] for i in indices], [encoded[i] for i in indices])
            result |= zip(indices, written, strict=True)
        scored = [i for i, name in enumerate(whose) if name not in writers]
        scores = iter(self.mixed_scores([(whose[i], example) for i in scored for example in encoded[i]]))
        for i in scored:
            result[i] = self[whose[i]].task.decode(rows[i], encoded[i], list(islice(scores, len(encoded[i]))))
        return [result[i] for i in range(len(rows))]

    def predictions(
        self,
        name: str,
        rows: Sequence[Row],
        encoded: Sequence[tasks.Encoded],
        progress: Callable[[int], None] = lambda done: None,
        boundary: Boundary | None = None,
    ) -> list[tasks.Prediction]:
        """Predictions of checked rows by the adapter `name`; `encoded` is what its encoder made of them. Leaves it in
        use. `progress` and `boundary` as for `scores`, of all examples of all rows; or where answers are written,
        `progress` is told how many rows are done."""
        task = self[name].task
        if task.generation is not None:
            writings = self.generate(name, [each[-1] for each in encoded], progress=progress)
            rows_and_more = zip(rows, encoded, writings, strict=True)
            return [task.decode(row, each, [writing]) for row, each, writing in rows_and_more]
        scores = iter(self.scores(name, [example for each in encoded for example in each], progress, boundary))
        return [
            task.decode(row, each, list(islice(scores, len(each)))) for row, each in zip(rows, encoded, strict=True)
        ]

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
        self,
        name: str,
        row: Row | Mapping[str, Any] | str,
        generation: tasks.Generation | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[str]:
        """The answer to one row as it is written, in pieces of whole characters; otherwise as `generate`. Other
        adapters may be used between two pieces. Raises DataError at once for a row that cannot be read."""
        writer, loaded = Writer(self, name, generation, sampling), self[name]
        return writer.stream(loaded.encoder(_as_row(row, loaded.task, 1))[-1])

    @torch.no_grad()
    def scores(
        self,
        name: str,
        examples: Sequence[Example],
        progress: Callable[[int], None] = lambda done: None,
        boundary: Boundary | None = None,
    ) -> list[Tensor]:
        """What the task's `scores` are for each example, on the CPU, by the adapter `name`. Leaves it in use.

        `progress` is told how many examples are done. `boundary` is that of the examples, where it is known.
        """
        loaded = self.use(name)
        done = 0
        if self.ragged is None:
            self.try_ragged(examples)
        result: list[Tensor] = [torch.empty(0)] * len(examples)
        for indices in evaluation_batches(examples, self.max_batch_tokens, ragged=bool(self.ragged)):
            batch = self.collate([examples[i] for i in indices], every_answer=True)
            if boundary is not None:
                batch = boundary.enter(batch, indices)
            with self._lock:
                scores = loaded.task.scores(self._outputs(self.use(name), batch), batch)
            for index, each in zip(indices, scores, strict=True):
                result[index] = each.cpu()
            progress(done := done + len(indices))
        return result

    @torch.no_grad()
    def hidden_states(self, examples: Sequence[Example]) -> list[Tensor]:
        """Last hidden states (marks, D) in float32, on the CPU, of each example's marks, by the base itself. Leaves no
        adapter in use."""
        if self.ragged is None:
            self.try_ragged(examples)
        result: list[Tensor] = [torch.empty(0)] * len(examples)
        for indices in evaluation_batches(examples, self.max_batch_tokens, ragged=bool(self.ragged)):
            batch = self.collate([examples[i] for i in indices], every_answer=True)
            with self._lock:
                methods.activate(self.base.model)
                self._active = None
                states = hidden_rows(self.base.model, batch).float().cpu()
            for i, each in zip(indices, states.split([len(examples[i].marks) for i in indices]), strict=True):
                result[i] = each
        return result

    @torch.no_grad()
    def mixed_scores(self, asked: Sequence[tuple[str, Example]]) -> list[Tensor]:
        """As `scores`, for examples that each name their adapter: those of several share passes through the base."""
        by_name: dict[str, list[int]] = {}
        for i, (name, _) in enumerate(asked):
            by_name.setdefault(name, []).append(i)
        if not by_name:
            return []
        if len(by_name) == 1:
            return self.scores(asked[0][0], [example for _, example in asked])
        planned: list[tuple[str, list[int]]] = []
        for name, own in by_name.items():
            examples = [asked[i][1] for i in own]
            if self.ragged is None:
                self.try_ragged(examples)
            batches = evaluation_batches(examples, self.max_batch_tokens, ragged=bool(self.ragged))
            planned += [(name, [own[i] for i in batch]) for batch in batches]
        result: list[Tensor] = [torch.empty(0)] * len(asked)
        for together in self._passes(asked, planned):
            outputs = self.outputs([(name, batch) for name, _, batch in together])
            for (name, indices, batch), output in zip(together, outputs, strict=True):
                for i, each in zip(indices, self[name].task.scores(output, batch), strict=True):
                    result[i] = each.cpu()
        return result

    def _passes(
        self, asked: Sequence[tuple[str, Example]], planned: Sequence[tuple[str, list[int]]]
    ) -> Iterator[list[tuple[str, list[int], Batch]]]:
        """The planned batches, as many at once as `max_batch_tokens` hold."""
        together: list[tuple[str, list[int], Batch]] = []
        for name, indices in planned:
            batch = self.collate([asked[i][1] for i in indices], every_answer=True)
            tokens = batch.n_tokens + sum(other.n_tokens for _, _, other in together)
            if together and tokens > self.max_batch_tokens:
                yield together
                together = []
            together.append((name, indices, batch))
        yield together

    def loss(self, name: str, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's labelled positions, differentiable, by `name`. Leaves that in use."""
        return self.losses([(name, batch)])[0]

    def losses(self, batches: Sequence[tuple[str, Batch]]) -> list[Tensor]:
        """The loss of a batch of each of several adapters, in one pass where they can go together. Leaves none in use
        if there are several."""
        outputs = self.outputs(batches)
        return [self[name].task.loss(output, batch) for (name, batch), output in zip(batches, outputs, strict=True)]

    def outputs(self, batches: Sequence[tuple[str, Batch]]) -> list[Tensor]:
        """What each adapter's task scores of its batch, in one pass where they can go together: a head's logits (N, C),
        or the log-likelihoods (N,) of target tokens. Leaves none in use if there are several."""
        model = self.base.model
        with self._lock:
            loaded = [self[name] for name, _ in batches]
            linear = all(one.head for one in loaded) or logits_are_linear(model)
            all_there = {name for name, _ in batches} <= set(self.resident)  # what comes last may push out the first
            if len(batches) == 1 or not self.ragged or not linear or not all_there:
                return [self._outputs(self.use(name), batch) for name, batch in batches]
            ends = list(accumulate(batch.n_tokens for _, batch in batches))
            rows = [slice(end - batch.n_tokens, end) for end, (_, batch) in zip(ends, batches, strict=True)]
            self._active = None
            methods.activate(model, *(one.adapter for one in loaded), rows=rows)
            hidden = hidden_rows(model, join([batch for _, batch in batches]))
        own = hidden.split([len(batch.rows_N) for _, batch in batches])
        return [
            one.head(rows_ND) if one.head else log_likelihoods(model, rows_ND, batch.targets_N)
            for one, rows_ND, (_, batch) in zip(loaded, own, batches, strict=True)
        ]

    def _outputs(self, loaded: Loaded, batch: Batch) -> Tensor:
        """What the task scores: the head's logits, or the target tokens' log-likelihoods."""
        if loaded.head is None:
            return target_log_likelihoods(self.base.model, batch)
        logits_NC: Tensor = loaded.head(hidden_rows(self.base.model, batch))
        return logits_NC

    def boundary(
        self,
        name: str,
        examples: Sequence[Example],
        *,
        every_answer: bool,
        notice: Callable[[str], None],
        progress: Callable[[int], None] = lambda done: None,
    ) -> Boundary | None:
        """What enters the lowest layer that the adapter `name` changes, for these examples, from the cache on disk;
        None where there is nothing to keep."""
        adapter = self.use(name).adapter
        layer = adapter.first_layer if adapter else 0
        if not self.ragged or not layer or not examples:
            return None
        return open_boundary(
            cache_dir() / "boundaries",
            self.base.model,
            layer,
            examples,
            every_answer=every_answer,
            causal=self.causal,
            base_digest=self.base.fingerprint.digest,
            max_tokens=self.max_batch_tokens,
            notice=notice,
            progress=progress,
        )

    def try_ragged(self, examples: Sequence[Example]) -> str | None:
        """Run a few of the examples both ways. Why all batches will be padded from now on, if they will."""
        if self.ragged is False or not examples:
            return None
        reason = disagreement(self.base.model, examples, self._pad_id, causal=self.causal)
        self.ragged = reason is None
        return reason

    def collate(self, examples: Sequence[Example], *, every_answer: bool) -> Batch:
        """A batch on the base's device, ragged if the base can read that."""
        if self.ragged is None:
            self.try_ragged(examples)
        if self.ragged:
            return ragged(examples, every_answer=every_answer, causal=self.causal, device=self.base.device)
        if self.base.model.config.is_encoder_decoder:
            shift = self.base.model.prepare_decoder_input_ids_from_labels
            return paired(examples, self._pad_id, shift, every_answer=every_answer, device=self.base.device)
        return padded(examples, self._pad_id, every_answer=every_answer, device=self.base.device)

    @cached_property
    def can_write(self) -> bool:
        """Whether answers can be written from ragged batches, by a base that can read those."""
        return can_write(self.base.model)

    @property
    def _pad_id(self) -> int:
        tokenizer = self.base.tokenizer
        pad_id: int | None = tokenizer.pad_token_id
        return pad_id if pad_id is not None else tokenizer.eos_token_id or 0


def _positions(model: Any) -> int | None:
    """How many tokens of a text the model has positions for; None where there is no end to them. RoBERTa and its kin
    count from behind the padding token's."""
    most: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None) or None
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(table, "padding_idx", None)
    if most is None or padding is None:
        return most
    return most - padding - 1


def _as_row(row: Row | Mapping[str, Any] | str, task: tasks.Task, number: int) -> Row:
    if isinstance(row, str):
        if len(task.inputs) > 1:
            raise DataError(f"text {number}: {task.name} reads {' and '.join(task.inputs)}: give a mapping with both")
        row = {task.inputs[0]: row}
    plain = row if isinstance(row, Row) else Row(row, f"text {number}")
    values = plain.values
    try:
        if any(key not in values for key in task.inputs):
            values = take_columns(values, task.inputs, {})
        return Row(task.check({key: values[key] for key in task.inputs}), plain.origin)
    except NoColumn as fault:
        there = ", ".join(plain.values) or "none"
        raise DataError(f"{plain.origin}: there is no column {fault.column!r}, but {there}") from None
    except RowFault as fault:
        raise DataError(f"{plain.origin}: {fault.column} {fault.message}") from None
