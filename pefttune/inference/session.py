"""One resident base and any number of adapters on it, each with its own task and head. Used to evaluate, to predict,
and while training, so that what is measured is what is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pefttune import methods, store, tasks
from pefttune.bases import Base, Fingerprint
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
    prepare,
    ragged,
    target_log_likelihoods,
)
from pefttune.data import Example, Row, cache_dir, take_columns
from pefttune.data.columns import NoColumn
from pefttune.data.faults import RowFault
from pefttune.errors import AdapterError, DataError
from pefttune.inference.generation import Sampling, can_write
from pefttune.inference.writer import Writer
from pefttune.recipe import recipe_from_mapping
from pefttune.tasks.head import Head

ROWS_AT_ONCE = 512
# Products of so many rows run at full speed on a processor, and more rows would only need more memory (docs/LOG.md).
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_GPU = 640, 16_384


@dataclass(frozen=True)
class Loaded:
    """An adapter in a session, with its task; or, without adapter and head, the base itself asked to do a task."""

    task: tasks.Task
    encoder: tasks.Encoder
    adapter: methods.Adapter | None = None
    head: Head | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained and saved, by the key it has in the adapter's file."""
        own = self.adapter.parameters if self.adapter else {}
        return own | self._head_parameters()

    def _head_parameters(self) -> dict[str, nn.Parameter]:
        own = self.head.by_key() if self.head else {}
        return {methods.FILE_PREFIX + key: parameter for key, parameter in own.items()}

    def state(self) -> dict[str, Tensor]:
        """Copies of all `parameters`, on the CPU."""
        own = self.adapter.state() if self.adapter else {}
        return own | {key: tensor.detach().cpu().clone() for key, tensor in self._head_parameters().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over tensors that were checked against `parameters`."""
        if self.adapter is not None:
            self.adapter.load(state)
        with torch.no_grad():
            for key, parameter in self._head_parameters().items():
                parameter.copy_(state[key])

    def peft_config(self) -> dict[str, Any]:
        """What PEFT needs in `adapter_config.json` to rebuild it, the head included."""
        assert self.adapter is not None
        if self.head is None:
            return self.adapter.config() | {"task_type": "CAUSAL_LM"}
        return self.adapter.config() | {"task_type": self.head.task_type, "modules_to_save": [self.head.key]}

    def train(self, mode: bool) -> None:
        """Let adapter and head learn, or freeze them."""
        if self.adapter is not None:
            self.adapter.train(mode)
        if self.head is not None:
            self.head.train(mode).requires_grad_(mode)


class Session:
    """One resident base, many adapters; switching between them loads nothing."""

    def __init__(self, base: Base, max_batch_tokens: int | None = None) -> None:
        prepare(base.model)
        self.base = base
        self.causal = is_causal(base.model)
        """Whether a token is blind to what follows it: a decoder, not an encoder."""
        on_gpu = base.device.type == "cuda"
        self.max_batch_tokens = max_batch_tokens or (TOKENS_AT_ONCE_ON_GPU if on_gpu else TOKENS_AT_ONCE)
        self.ragged: bool | None = None
        """Whether batches are ragged; None until `try_ragged` has found out."""
        self._loaded: dict[str, Loaded] = {}
        self._active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the session."""
        return tuple(self._loaded)

    def __getitem__(self, name: str) -> Loaded:
        """The adapter of that name. Raises AdapterError when it is not in the session."""
        if name not in self._loaded:
            raise AdapterError(f"no adapter {name!r} in this session; it holds {', '.join(self._loaded) or 'none'}")
        return self._loaded[name]

    def add(self, name: str, loaded: Loaded) -> Loaded:
        """Put an adapter into the session under a free name."""
        if name in self._loaded:
            raise AdapterError(f"the session already holds an adapter {name!r}; remove it first")
        self._loaded[name] = loaded
        return loaded

    def load(self, folder: Path | str, name: str | None = None) -> Loaded:
        """Attach the adapter saved in `folder`, under `name` or its own.

        Nothing is attached before the files are whole and the base is the one it was trained on; if its weights do not
        fit, it is taken off again. Raises AdapterError.
        """
        folder = Path(folder)
        manifest = store.read_manifest(folder)
        trained_on = Fingerprint(**manifest["base"]["fingerprint"])
        if differences := self.base.fingerprint.differences(trained_on):
            raise AdapterError(
                f"{manifest['name']} was trained on another base ({manifest['base']['source']}, "
                f"{manifest['base']['origin']}). They differ in: " + "; ".join(differences)
            )
        recipe = recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}")
        task = tasks.get(recipe.task).with_labels(manifest["labels"])
        loaded = self.attach(task, recipe.adapter, recipe.data.max_length)
        try:
            loaded.load_state(methods.weights.read(folder, loaded.parameters))
            return self.add(name or manifest["name"], loaded)
        except BaseException:
            if loaded.adapter is not None:
                loaded.adapter.detach()
            raise

    def attach(self, task: tasks.Task, config: Any, max_length: int) -> Loaded:
        """A new, frozen adapter by the recipe's `adapter` section, with the task's encoder and head, not yet in the
        session. Raises BaseError or DataError when task, method and base do not fit together."""
        encoder = self.encoder(task, max_length)
        adapter = methods.attach(self.base.model, config)
        loaded = Loaded(task, encoder, adapter, task.new_head(self.base.model, causal=self.causal))
        loaded.train(False)
        return loaded

    def encoder(self, task: tasks.Task, max_length: int) -> tasks.Encoder:
        """What turns rows of the task into examples for this base. Raises BaseError or DataError."""
        positions = getattr(self.base.model.config.get_text_config(), "max_position_embeddings", None) or max_length
        if max_length > positions:
            raise DataError(f"data.max_length: {max_length} tokens are more than this base reads; it has {positions}")
        return task.encoder(self.base.tokenizer, max_length, causal=self.causal)

    def remove(self, name: str) -> None:
        """Take an adapter off the base and forget it."""
        loaded = self[name]
        if loaded.adapter is not None:
            loaded.adapter.detach()
        del self._loaded[name]
        self._active = None if self._active == name else self._active

    def use(self, name: str) -> Loaded:
        """Make `name` the adapter that acts, until another one is used."""
        loaded = self[name]
        methods.activate(self.base.model, loaded.adapter)
        self._active = name
        return loaded

    def predict(
        self, rows: Iterable[Row | Mapping[str, Any] | str], adapter: str | None = None
    ) -> Iterator[tasks.Prediction]:
        """A prediction for each row, in order, by `adapter` or the one in use; rows are streamed.

        A row is a mapping with the columns that the task reads, or for a task that reads one column its text.

        Raises AdapterError at once, DataError when a row that cannot be read is met.
        """
        if isinstance(rows, str):
            raise DataError("predict() takes several texts: give a list, [text], also for one")
        if adapter is None and self._active is None:
            raise AdapterError(f"no adapter is in use; call use() with one of {', '.join(self._loaded) or 'none'}")
        name = adapter or self._active or ""
        return self._predict(rows, name, self[name])

    def _predict(
        self, rows: Iterable[Row | Mapping[str, Any] | str], name: str, loaded: Loaded
    ) -> Iterator[tasks.Prediction]:
        numbered = (_as_row(row, loaded.task, number) for number, row in enumerate(rows, start=1))
        while chunk := list(islice(numbered, ROWS_AT_ONCE)):
            yield from self.predictions(name, chunk, [loaded.encoder(row) for row in chunk])

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
            scores = loaded.task.scores(self._outputs(loaded, batch), batch)
            for index, each in zip(indices, scores, strict=True):
                result[index] = each.cpu()
            progress(done := done + len(indices))
        return result

    def loss(self, name: str, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's labelled positions, differentiable, by `name`. Leaves that in use."""
        loaded = self.use(name)
        return loaded.task.loss(self._outputs(loaded, batch), batch)

    def losses(self, batches: Sequence[tuple[str, Batch]]) -> list[Tensor]:
        """The loss of a batch of each of several adapters, in one pass where they can go together. Leaves none in use
        if there are several."""
        model = self.base.model
        by_heads = all(self[name].head is not None for name, _ in batches)
        if len(batches) == 1 or not self.ragged or not (by_heads or logits_are_linear(model)):
            return [self.loss(name, batch) for name, batch in batches]
        ends = list(accumulate(batch.n_tokens for _, batch in batches))
        rows = [slice(end - batch.n_tokens, end) for end, (_, batch) in zip(ends, batches, strict=True)]
        self._active = None
        methods.activate(model, *(self[name].adapter for name, _ in batches), rows=rows)
        rows_ND = hidden_rows(model, join([batch for _, batch in batches]))
        losses, start = [], 0
        for name, batch in batches:
            loaded, own_ND = self[name], rows_ND[start : start + len(batch.rows_N)]
            start += len(batch.rows_N)
            outputs = loaded.head(own_ND) if loaded.head else log_likelihoods(model, own_ND, batch.targets_N)
            losses.append(loaded.task.loss(outputs, batch))
        return losses

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
