"""What a method of adapting gives: modules attached in place, whose parameters are all that is ever trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from pefttune.methods.places import FILE_PREFIX


class Adapter(Protocol):
    """One adapter attached to a resident base. The loop sees only `parameters` and what it is asked to do with them; it
    never learns the method's name. Methods inherit what most of them do alike."""

    mixes: bool
    """Whether several such adapters may act in one pass, each on its own rows."""
    virtual_ids: tuple[int, ...] = ()
    """Ids beyond the base's vocabulary that every text begins with, which the adapter embeds while it acts."""
    read_only_ids: frozenset[int] = frozenset()
    """Ids beyond the base's vocabulary that it embeds, and that the base's output layer has no trained row for."""
    file_prefix: str = FILE_PREFIX
    """What stands in its file before the path of a module of the base."""

    def __init__(self, model: Any, config: Any) -> None:
        """Attach a new, frozen one to `model`, on which none acts, by the recipe's section. Raises BaseError."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of it, by the key it has in the adapter's file."""

    def state(self) -> Mapping[str, Tensor]:
        """What the adapter's file holds: its parameters, with whatever was frozen when they began, unless the method
        says otherwise."""
        return self.parameters

    @property
    def rates(self) -> Mapping[str, float]:
        """Factors on the learning rate, of those parameters that have one."""
        return {}

    def penalty(self) -> Tensor | None:
        """What is added to the loss of an optimizer step, if anything."""
        return None

    def after_step(self, step: int, of: int) -> None:
        """Told after each optimizer step, counted from 1, of so many, while the gradients are still there. Raises
        TrainingError where so few steps do not suffice."""
        return

    @property
    def first_layer(self) -> int | None:
        """The lowest of the base's layers that it changes; 0 also where that is not known, None where it changes
        none."""

    def train(self, mode: bool) -> None:
        """Let its parameters learn and its dropout drop, or neither."""

    def activate(self, rows: slice = slice(None)) -> None:
        """Act in the model's forward on these rows of the batch, besides those that act already."""

    @staticmethod
    def deactivate(model: nn.Module) -> None:
        """Let no adapter of this method act in the model's forward."""

    def config(self) -> dict[str, Any]:
        """What `adapter_config.json` says of it, without the base's name; its task is to write."""

    def detach(self) -> None:
        """Take it off the base, where no adapter acts, and which is then as it was."""
