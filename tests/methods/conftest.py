"""What tests of several methods do alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def learn() -> Callable[..., None]:
    """Ten steps in which an adapter learns: its loss falls, and each parameter is a float32 master that has a gradient
    of float32. `learn(adapter, lambda: model(ids, labels=ids).loss)`, at a rate of 1e-2 unless told."""
    import torch

    def steps(adapter: Any, loss_of: Callable[[], Any], rate: float = 1e-2) -> None:
        adapter.train(True)
        parameters = list(adapter.parameters.values())
        optimizer, losses = torch.optim.AdamW(parameters, lr=rate), []
        for _ in range(10):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            assert all(p.grad is not None and p.dtype == p.grad.dtype == torch.float32 for p in parameters)
            optimizer.step()
            losses.append(loss.item())
        adapter.train(False)
        assert not any(parameter.requires_grad for parameter in parameters)
        assert losses[-1] < losses[0]

    return steps
