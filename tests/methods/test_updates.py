"""Norms of updates from their factors alone: what dense matrices give, to the rounding of float64."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.methods import Change, change, change_of_tensor, norms, stored_parts
from pefttune.methods.merging import Update
from pefttune.methods.updates import parts_of
from pefttune.recipe.adapters import Lora

ROUNDING = 1e-12  # of float64 in sums of some hundred products


def update(seed: int, r: int, scale: float, outputs: int = 24, inputs: int = 40) -> Update:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(r, inputs, generator=chance), torch.randn(outputs, r, generator=chance), scale


def dense(one: Update) -> Tensor:
    a, b, scale = one
    return scale * (b.double() @ a.double())


@pytest.mark.parametrize(("r", "outputs"), [(1, 24), (4, 24), (30, 24), (4, 3)])  # also of more ranks than outputs
def test_norms_are_those_of_the_whole_matrix(r: int, outputs: int) -> None:
    one = update(0, r, -0.5, outputs)
    spectral, frobenius = norms(one)
    assert spectral == pytest.approx(float(torch.linalg.matrix_norm(dense(one), 2)), rel=ROUNDING)
    assert frobenius == pytest.approx(float(torch.linalg.matrix_norm(dense(one))), rel=ROUNDING)


def test_a_change_is_that_of_the_whole_matrices() -> None:
    one, other = update(0, 3, 2.0), update(1, 5, 0.25)
    found, (first, second) = change(one, other), (dense(one), dense(other))
    assert found.first == pytest.approx(float(first.norm()), rel=ROUNDING)
    assert found.second == pytest.approx(float(second.norm()), rel=ROUNDING)
    assert found.difference == pytest.approx(float((second - first).norm()), rel=ROUNDING)
    assert found.inner == pytest.approx(float((first * second).sum()), rel=1e-10)  # terms of both signs
    assert found.cosine == pytest.approx(float((first * second).sum() / (first.norm() * second.norm())), rel=1e-10)


def test_a_small_difference_is_not_lost_in_rounding() -> None:
    a, b, scale = update(0, 4, 1.0)
    moved = b.clone()
    moved[3, 2] += 2**-20
    exact = scale * float(((moved - b).double() @ a.double()).norm())
    found = change((a, b, scale), (a, moved, scale))
    assert found.difference == pytest.approx(exact, rel=1e-6)  # norms about 1e6 times as large, in float64
    assert change((a, b, scale), (a.clone(), b.clone(), scale)).difference == 0.0


def test_one_that_is_not_there_is_zero() -> None:
    one = update(0, 4, 2.0)
    norm = norms(one)[1]
    assert change(one, None) == Change(norm, 0.0, norm, 0.0)
    assert change(None, one) == Change(0.0, norm, norm, 0.0)
    assert change(None, one).cosine is None


def test_tensors_number_by_number() -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]])
    assert change_of_tensor(one, other) == Change(5.0, 3.0, 4.0, 9.0)
    assert change_of_tensor(None, one) == Change(0.0, 5.0, 5.0, 0.0)


def test_modules_together_are_as_one() -> None:
    pairs = [(update(0, 2, 1.0), update(1, 2, 1.0)), (update(2, 3, 1.0), update(3, 1, 1.0))]
    whole = change(*pairs[0]) + change(*pairs[1])
    first, second = (torch.cat([dense(pair[i]).flatten() for pair in pairs]) for i in (0, 1))
    assert whole.difference == pytest.approx(float((second - first).norm()), rel=ROUNDING)
    assert whole.cosine == pytest.approx(float(torch.cosine_similarity(first, second, dim=0)), rel=1e-10)


def test_scales_are_those_of_the_recipe(tmp_path: Path) -> None:
    a, b, _ = update(0, 8, 1.0)
    state = {
        "base_model.model.x.lora_A.weight": a,
        "base_model.model.x.lora_B.weight": b,
        "base_model.model.score": b.clone(),
    }
    save_file(state, tmp_path / "adapter_model.safetensors")
    sha256 = hashlib.sha256((tmp_path / "adapter_model.safetensors").read_bytes()).hexdigest()
    section = Lora(method="lora", r=4, lora_alpha=8)
    parts = stored_parts(tmp_path, section, sha256)
    [(name, (_, _, scale))] = parts.updates.items()
    assert list(parts.others) == ["base_model.model.score"]
    assert (name, scale) == ("base_model.model.x", 2.0)  # all modules are scaled alike, whatever their rank
    stabilized = section.model_copy(update={"use_rslora": True})
    [(_, _, scale)] = stored_parts(tmp_path, stabilized, sha256).updates.values()
    assert scale == pytest.approx(8 / math.sqrt(4))


@pytest.mark.parametrize("b", [None, torch.zeros(3, 5), torch.zeros(3)])
def test_factors_that_do_not_fit_are_refused(b: Tensor | None, tmp_path: Path) -> None:
    state = {"x.lora_A.weight": torch.zeros(4, 6)} | ({} if b is None else {"x.lora_B.weight": b})
    with pytest.raises(AdapterError, match=r"x has no A and B of one rank"):
        parts_of(state, Lora(method="lora", r=4), tmp_path)
