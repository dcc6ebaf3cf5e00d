"""The weights of the best evaluation, in memory and in the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pefttune.errors import StorageError


class Best:
    """Keeps the weights of the evaluation with the highest watched metric; of equals, the earliest."""

    def __init__(self, run_folder: Path, watched: str) -> None:
        self._path = run_folder / "best.safetensors"
        self._watched = watched
        self._score = float("-inf")
        self._state: dict[str, Tensor] = {}
        self._step = 0
        self.evaluations_since = 0

    def consider(self, step: int, metrics: Mapping[str, Any], trainable: Mapping[str, nn.Parameter]) -> None:
        """Take over the weights if these metrics are the best so far. Raises StorageError."""
        self.evaluations_since += 1
        if metrics[self._watched] <= self._score:
            return
        self.evaluations_since = 0
        self._score, self._step = metrics[self._watched], step
        self._state = {key: parameter.detach().cpu().clone() for key, parameter in trainable.items()}
        staging = self._path.with_suffix(".partial")
        try:
            save_file(self._state, staging, metadata={"format": "pt", "step": str(step)})
            os.replace(staging, self._path)
        except Exception as error:
            raise StorageError(f"{self._path} could not be written: {error}; free some room and train again") from None
        finally:
            staging.unlink(missing_ok=True)

    def restore(self, trainable: Mapping[str, nn.Parameter]) -> int:
        """Put the best weights back and say of which step they are."""
        with torch.no_grad():
            for key, parameter in trainable.items():
                parameter.copy_(self._state[key])
        return self._step
