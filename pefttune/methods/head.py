"""The head alone on the frozen base (linear probing): nothing is attached, and the base's outputs are its features.

PEFT has no method of that name, but a LoRA without any target: `modules_to_save` then holds the head, and that is all.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from pefttune.methods.protocol import Adapter
from pefttune.methods.settings import settings_of
from pefttune.recipe.adapters import Head


class HeadAlone(Adapter):
    """The adapter that changes nothing in the base."""

    first_layer: None = None
    mixes = True

    def __init__(self, model: Any, config: Head) -> None:
        """Nothing is attached."""
        self._section = config

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def train(self, mode: bool) -> None:
        """Nothing of it learns."""

    def activate(self, rows: slice = slice(None)) -> None:
        """Leave the base as it is on these rows."""

    @staticmethod
    def deactivate(model: nn.Module) -> None:
        """Nothing of it acts."""

    def config(self) -> dict[str, Any]:
        """A LoRA on no layer, as PEFT writes it."""
        config: dict[str, Any] = settings_of(self._section)().to_dict()
        return config

    def detach(self) -> None:
        """Nothing is on the base."""
