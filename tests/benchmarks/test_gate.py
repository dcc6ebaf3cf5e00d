"""The gate opens for pefttune, and shuts for anything that is a little wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import gate
from benchmarks.errors import BenchmarkError


def test_open_for_ours(capfd: pytest.CaptureFixture[str]) -> None:
    gate.check()
    assert capfd.readouterr().out == ""


def scaled_gradient(slope: gate.Slope) -> gate.Slope:
    name = sorted(slope.gradients)[3]
    return replace(slope, gradients={**slope.gradients, name: slope.gradients[name] * 1.0001})


def missing_gradient(slope: gate.Slope) -> gate.Slope:
    return replace(slope, gradients=dict(list(slope.gradients.items())[1:]))


def scaled_loss(slope: gate.Slope) -> gate.Slope:
    return replace(slope, loss=slope.loss * 1.0001)


def not_a_number(slope: gate.Slope) -> gate.Slope:
    return replace(slope, gradients={name: grad * float("nan") for name, grad in slope.gradients.items()})


@pytest.mark.parametrize("spoil", [scaled_gradient, missing_gradient, scaled_loss, not_a_number])
def test_shut(spoil: Any) -> None:
    with pytest.raises(BenchmarkError, match="gate is shut"):
        gate.check(lambda job, state: spoil(gate.of_ours(job, state)))


def test_every_adapter_tensor_is_looked_at(tmp_path: Any) -> None:
    gate.write_base(tmp_path)
    slope, _ = gate.of_reference(gate.job_of(str(tmp_path), 0))
    assert len(slope.gradients) == 2 * 7 * 2  # layers, linear layers in each, A and B
    assert all(gradient.abs().max() > 0 for gradient in slope.gradients.values())
