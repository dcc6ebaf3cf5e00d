"""One resident base and any number of adapters on it, each with its own task and head. Used to evaluate, to predict,
and while training, so that what is measured is what is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    class_logits,
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
from pefttune.data import Example, Row, cache_dir
from pefttune.data.faults import RowFault
from pefttune.errors import AdapterError, BaseError, DataError
from pefttune.recipe import recipe_from_mapping

ROWS_AT_ONCE = 512
# Products of so many rows run at full speed on a processor, and more rows would only need more memory (docs/LOG.md).
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_GPU = 640, 16_384
HEAD_KEY = methods.FILE_PREFIX + "score."


@dataclass(frozen=True)
class Loaded:
    """An adapter in a session, with its task; or, without adapter and head, the base itself asked to do a task."""

    task: tasks.Task
    encoder: tasks.Encoder
    adapter: methods.Adapter | None = None
    head: nn.Linear | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained and saved, by the key it has in the adapter's file."""
        own = self.adapter.parameters if self.adapter else {}
        return own | self._head_parameters()

    def _head_parameters(self) -> dict[str, nn.Parameter]:
        return {HEAD_KEY + name: p for name, p in self.head.named_parameters()} if self.head else {}

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
        kind = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if self.head else {"task_type": "CAUSAL_LM"}
        return self.adapter.config() | kind

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
        if not is_causal(base.model):
            raise BaseError(f"{type(base.model).__name__} cannot be a base: it is no decoder")
        self.base = base
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
        encoder = task.encoder(self.base.tokenizer, recipe.data.max_length)
        adapter = methods.attach(self.base.model, recipe.adapter)
        try:
            loaded = Loaded(task, encoder, adapter, task.new_head(self.base.model))
            loaded.load_state(methods.weights.read(folder, loaded.parameters))
            loaded.train(False)
            return self.add(name or manifest["name"], loaded)
        except BaseException:
            adapter.detach()
            raise

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

    def predict(self, rows: Iterable[Row | str], adapter: str | None = None) -> Iterator[tasks.Prediction]:
        """A prediction for each row or text, in order, by `adapter` or the one in use; rows are streamed.

        Raises AdapterError at once, DataError when a row that cannot be read is met.
        """
        if isinstance(rows, str):
            raise DataError("predict() takes several texts: give a list, [text], also for one")
        if adapter is None and self._active is None:
            raise AdapterError(f"no adapter is in use; call use() with one of {', '.join(self._loaded) or 'none'}")
        name = adapter or self._active or ""
        return self._predict(rows, name, self[name])

    def _predict(self, rows: Iterable[Row | str], name: str, loaded: Loaded) -> Iterator[tasks.Prediction]:
        numbered = (_as_row(row, loaded.task, number) for number, row in enumerate(rows, start=1))
        while chunk := [loaded.encoder(row) for row in islice(numbered, ROWS_AT_ONCE)]:
            scores = self.scores(name, chunk)
            for example, values in zip(chunk, scores.tolist(), strict=True):
                yield loaded.task.decode(values, example.truncated)

    @torch.no_grad()
    def scores(
        self,
        name: str,
        examples: Sequence[Example],
        progress: Callable[[int], None] = lambda done: None,
        boundary: Boundary | None = None,
    ) -> Tensor:
        """Log-scores of the classes, (rows, C) in float32 on the CPU, by the adapter `name`. Leaves it in use.

        `progress` is told how many rows are done. `boundary` is that of the examples, where it is known.
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
            for index, row in zip(indices, loaded.task.scores(self._outputs(loaded, batch), batch).cpu(), strict=True):
                result[index] = row
            progress(done := done + len(indices))
        return torch.stack(result)

    def loss(self, name: str, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's labelled positions, differentiable, by `name`. Leaves that in use."""
        loaded = self.use(name)
        return loaded.task.loss(self._outputs(loaded, batch), batch)

    def losses(self, batches: Sequence[tuple[str, Batch]]) -> list[Tensor]:
        """The loss of a batch of each of several adapters, in one pass where they can go together. Leaves none in use
        if there are several."""
        model = self.base.model
        if len(batches) == 1 or not self.ragged or not logits_are_linear(model):
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
            if loaded.head is None:
                outputs = log_likelihoods(model, own_ND, batch.targets_N)
            else:
                outputs = class_logits(own_ND, loaded.head)
            losses.append(loaded.task.loss(outputs, batch))
        return losses

    def _outputs(self, loaded: Loaded, batch: Batch) -> Tensor:
        """What the task scores: the head's logits, or the target tokens' log-likelihoods."""
        if loaded.head is None:
            return target_log_likelihoods(self.base.model, batch)
        return class_logits(hidden_rows(self.base.model, batch), loaded.head)

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
            base_digest=self.base.fingerprint.digest,
            max_tokens=self.max_batch_tokens,
            notice=notice,
            progress=progress,
        )

    def try_ragged(self, examples: Sequence[Example]) -> str | None:
        """Run a few of the examples both ways. Why all batches will be padded from now on, if they will."""
        if self.ragged is False or not examples:
            return None
        reason = disagreement(self.base.model, examples, self._pad_id, causal=True)
        self.ragged = reason is None
        return reason

    def collate(self, examples: Sequence[Example], *, every_answer: bool) -> Batch:
        """A batch on the base's device, ragged if the base can read that."""
        if self.ragged is None:
            self.try_ragged(examples)
        if self.ragged:
            return ragged(examples, every_answer=every_answer, causal=True, device=self.base.device)
        return padded(examples, self._pad_id, every_answer=every_answer, device=self.base.device)

    @property
    def _pad_id(self) -> int:
        tokenizer = self.base.tokenizer
        pad_id: int | None = tokenizer.pad_token_id
        return pad_id if pad_id is not None else tokenizer.eos_token_id or 0


def _as_row(row: Row | str, task: tasks.Task, number: int) -> Row:
    plain = Row({task.inputs[0]: row}, f"text {number}") if isinstance(row, str) else row
    if missing := [key for key in task.inputs if key not in plain.values]:
        raise DataError(f"{plain.origin}: there is no column {missing[0]!r}, but {', '.join(plain.values) or 'none'}")
    try:
        return Row(task.check({key: plain.values[key] for key in task.inputs}), plain.origin)
    except RowFault as fault:
        raise DataError(f"{plain.origin}: {fault.column} {fault.message}") from None
