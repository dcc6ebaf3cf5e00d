"""What would make training silently wrong stops it: numbers that are not finite, tensors that do not move, a base
that does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from pefttune.errors import NonFiniteError, TrainingError


def check_finite(name: str, step: int, loss: float, gradient_norm: float, origins: Sequence[str]) -> None:
    """Raise NonFiniteError before the update when the loss or the gradient norm is NaN or infinite."""
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    shown = ", ".join(origins[:5]) + (f" and {len(origins) - 5} more" if len(origins) > 5 else "")
    raise NonFiniteError(
        f"{name}, step {step}: the loss is {loss} and the gradient norm {gradient_norm}; nothing was updated. "
        f"Rows of this step: {shown}. A lower training.learning_rate or base.dtype=float32 usually mends it"
    )


class MovementGuard:
    """Watches the first steps: every trainable tensor must move.

    A LoRA's A gets its first gradient once B has moved, so a tensor has two steps to move, if it gets a gradient.
    """

    STEPS_TO_MOVE = 2

    def __init__(self, name: str, trainable: Mapping[str, nn.Parameter]) -> None:
        self._name, self._trainable = name, trainable
        self._start: dict[str, Tensor] | None = {key: tensor.detach().clone() for key, tensor in trainable.items()}

    def after_step(self, step: int) -> None:
        """Call after each optimizer step, counted from 1. Raises TrainingError."""
        if step == self.STEPS_TO_MOVE and self._start is not None:
            still = [key for key, tensor in self._trainable.items() if tensor.detach().equal(self._start[key])]
            self._start = None
            if still:
                raise TrainingError(
                    f"{self._name}: after {step} steps {len(still)} of {len(self._trainable)} trainable tensors have "
                    f"not moved ({', '.join(still[:3])} …): no gradient reaches them, so they would never learn"
                )


class BaseGuard:
    """Watches the frozen base: it must not move, neither in the first pass nor until the end."""

    def __init__(self, digest: Callable[[], str]) -> None:
        self._digest = digest
        self._at_start = digest()
        self._first = True

    def after_pass(self) -> None:
        """Call after each pass forward and back; looks after the first."""
        if self._first:
            self.check()
        self._first = False

    def check(self) -> None:
        """Raise TrainingError when a byte of the frozen base has changed."""
        if self._digest() != self._at_start:
            raise TrainingError("the frozen base has changed during training; the adapter fits no base and is not kept")
