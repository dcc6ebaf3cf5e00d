"""What would make training silently wrong stops it: numbers that are not finite, tensors that do not move, a base
that does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from pefttune.errors import NonFiniteError, TrainingError


def check_finite(step: int, loss: float, gradient_norm: float, origins: Sequence[str]) -> None:
    """Raise NonFiniteError before the update when the loss or the gradient norm is NaN or infinite."""
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    shown = ", ".join(origins[:5]) + (f" and {len(origins) - 5} more" if len(origins) > 5 else "")
    raise NonFiniteError(
        f"step {step}: the loss is {loss} and the gradient norm {gradient_norm}; nothing was updated. Rows of this "
        f"step: {shown}. A lower training.learning_rate or base.dtype=float32 usually mends it"
    )


class MovementGuard:
    """Watches the first steps: every trainable tensor must move and the base must not.

    A LoRA's A gets its first gradient once B has moved, so a tensor has two steps to move, if it gets a gradient.
    """

    STEPS_TO_MOVE = 2

    def __init__(self, trainable: Mapping[str, nn.Parameter], base_digest: Callable[[], str]) -> None:
        self._trainable = trainable
        self._start: dict[str, Tensor] | None = {key: tensor.detach().clone() for key, tensor in trainable.items()}
        self._base_digest = base_digest
        self._base_at_start = base_digest()

    def after_step(self, step: int) -> None:
        """Call after each optimizer step, counted from 1. Raises TrainingError."""
        if step == 1:
            self.check_base()
        if step == self.STEPS_TO_MOVE and self._start is not None:
            still = [key for key, tensor in self._trainable.items() if tensor.detach().equal(self._start[key])]
            self._start = None
            if still:
                raise TrainingError(
                    f"after {step} steps {len(still)} of {len(self._trainable)} trainable tensors have not moved "
                    f"({', '.join(still[:3])} …): no gradient reaches them, so they would never learn"
                )

    def check_base(self) -> None:
        """Raise TrainingError when a byte of the frozen base has changed."""
        if self._base_digest() != self._base_at_start:
            raise TrainingError("the frozen base has changed during training; the adapter fits no base and is not kept")
