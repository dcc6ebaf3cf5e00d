"""What a method of adapting gives: modules attached in place, whose parameters are all that is ever trained."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn


class Adapter(Protocol):
    """One adapter attached to a resident base. The loop sees only `parameters`; it never learns the method's name."""

    mixes: bool
    """Whether several such adapters may act in one pass, each on its own rows."""

    def __init__(self, model: Any, config: Any) -> None:
        """Attach a new, frozen one to `model`, on which none acts, by the recipe's section. Raises BaseError."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by the key they have in the adapter's file."""

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
