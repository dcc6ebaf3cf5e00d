"""One adapter in a session: what it is for, what is attached to the base, its head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pefttune import methods, tasks
from pefttune.tasks.head import Head


@dataclass(frozen=True)
class Purpose:
    """What an adapter is for: its task, and how rows become examples of it. Known also while it is off the base."""

    task: tasks.Task
    encoder: tasks.Encoder
    max_length: int
    """Tokens of its longest example."""
    vocabulary: tasks.Vocabulary | None = field(default=None, kw_only=True)
    """Where it adds tokens to that of the base."""


@dataclass(frozen=True)
class Loaded(Purpose):
    """An adapter in a session, with its task; or, without adapter and head, the base itself asked to do a task."""

    adapter: methods.Adapter | None = None
    head: Head | None = None
    stacked: tuple[methods.Adapter, ...] = ()
    """Of a stack: the adapters that act together, in this order, which are others' own."""

    @property
    def acting(self) -> tuple[methods.Adapter, ...]:
        """What acts on the base when it is used."""
        return self.stacked or (() if self.adapter is None else (self.adapter,))

    @property
    def nbytes(self) -> int:
        """Memory of its weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, by the key it has in the adapter's file."""
        return (self.adapter.parameters if self.adapter else {}) | self._of_head()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that is saved, by the key it has in the adapter's file: what is trained, and what stays as it began."""
        return {**(self.adapter.state() if self.adapter else {}), **self._of_head()}

    def state(self) -> dict[str, Tensor]:
        """Copies of all that is saved, on the CPU."""
        return methods.weights.copied(self.tensors)

    def _of_head(self) -> dict[str, nn.Parameter]:
        if self.adapter is None or self.head is None:
            return {}
        return {self.adapter.file_prefix + key: parameter for key, parameter in self.head.by_key().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over tensors that were checked against `tensors`."""
        methods.weights.fill(self.tensors, state)

    def peft_config(self) -> dict[str, Any]:
        """What PEFT needs in `adapter_config.json` to rebuild it, the head included."""
        assert self.adapter is not None
        if self.head is None:
            return self.adapter.config()
        return self.adapter.config() | {"task_type": self.head.task_type, "modules_to_save": [self.head.key]}

    def train(self, mode: bool) -> None:
        """Let adapter and head learn, or freeze them."""
        if self.adapter is not None:
            self.adapter.train(mode)
        if self.head is not None:
            self.head.train(mode).requires_grad_(mode)
