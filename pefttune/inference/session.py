"""One resident base and any number of adapters on it, each with its own task and head. Used to evaluate, to predict,
and while training, so that what is measured is what is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pefttune import methods, store, tasks
from pefttune.bases import Base, Fingerprint
from pefttune.batching import Batch, collate, evaluation_batches, prompts_can_be_shared, row_logits
from pefttune.data import Example, Row
from pefttune.data.faults import RowFault
from pefttune.errors import AdapterError, DataError
from pefttune.recipe import recipe_from_mapping

ROWS_AT_ONCE = 512
ROWS_SCORED_AT_ONCE = 1024  # each has a logit for every token of the vocabulary: 200 MB for 49,152 tokens
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

    def __init__(self, base: Base) -> None:
        prompts_can_be_shared(base.model)  # or BaseError, before anything is trained
        self.base = base
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

    def predict(
        self, rows: Iterable[Row | str], adapter: str | None = None, batch_size: int = 32
    ) -> Iterator[tasks.Prediction]:
        """A prediction for each row or text, in order, by `adapter` or the one in use; rows are streamed.

        Raises AdapterError at once, DataError when a row that cannot be read is met.
        """
        if isinstance(rows, str):
            raise DataError("predict() takes several texts: give a list, [text], also for one")
        if adapter is None and self._active is None:
            raise AdapterError(f"no adapter is in use; call use() with one of {', '.join(self._loaded) or 'none'}")
        name = adapter or self._active or ""
        return self._predict(rows, name, self[name], batch_size)

    def _predict(
        self, rows: Iterable[Row | str], name: str, loaded: Loaded, batch_size: int
    ) -> Iterator[tasks.Prediction]:
        numbered = (_as_row(row, loaded.task, number) for number, row in enumerate(rows, start=1))
        while chunk := [loaded.encoder(row) for row in islice(numbered, ROWS_AT_ONCE)]:
            scores = self.scores(name, chunk, batch_size)
            for example, values in zip(chunk, scores.tolist(), strict=True):
                yield loaded.task.decode(values, example.truncated)

    @torch.no_grad()
    def scores(
        self,
        name: str,
        examples: Sequence[Example],
        batch_size: int = 32,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Tensor:
        """Log-scores of the classes, (rows, C) in float32 on the CPU, by the adapter `name`. Leaves it in use.

        `progress` is told how many rows are done.
        """
        loaded = self.use(name)
        done = 0
        scored = max((sum(map(len, example.answers)) for example in examples), default=0)
        batch_size = max(1, min(batch_size, ROWS_SCORED_AT_ONCE // max(1, scored)))
        result: list[Tensor] = [torch.empty(0)] * len(examples)
        for indices in evaluation_batches([len(example) for example in examples], batch_size):
            batch = self.collate([examples[i] for i in indices], every_answer=True)
            logits = row_logits(self.base.model, batch, loaded.head)
            for index, row in zip(indices, loaded.task.scores(logits, batch).cpu(), strict=True):
                result[index] = row
            progress(done := done + len(indices))
        return torch.stack(result)

    def loss(self, name: str, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's labelled positions, differentiable, by `name`. Leaves that in use."""
        loaded = self.use(name)
        return loaded.task.loss(row_logits(self.base.model, batch, loaded.head), batch)

    def collate(self, examples: Sequence[Example], *, every_answer: bool) -> Batch:
        """A batch on the base's device."""
        if every_answer and not prompts_can_be_shared(self.base.model):
            examples = [replace(e, answers=(answer,)) for e in examples for answer in e.answers] or examples
        tokenizer = self.base.tokenizer
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        return collate(examples, pad_id, every_answer=every_answer, device=self.base.device, dtype=self.base.dtype)


def _as_row(row: Row | str, task: tasks.Task, number: int) -> Row:
    plain = Row({task.inputs[0]: row}, f"text {number}") if isinstance(row, str) else row
    if missing := [key for key in task.inputs if key not in plain.values]:
        raise DataError(f"{plain.origin}: there is no column {missing[0]!r}, but {', '.join(plain.values) or 'none'}")
    try:
        return Row(task.check({key: plain.values[key] for key in task.inputs}), plain.origin)
    except RowFault as fault:
        raise DataError(f"{plain.origin}: {fault.column} {fault.message}") from None
