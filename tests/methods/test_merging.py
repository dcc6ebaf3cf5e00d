"""Updates of several LoRA adapters become one: what each way does to a weight, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pefttune import methods
from pefttune.errors import AdapterError

Parent = dict[str, tuple[Tensor, Tensor, float]]


def random_parent(seed: int, r: int, scale: float = 2.0) -> Parent:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"wide": (12, 20), "narrow": (3, 20)}
    return {
        name: (torch.randn(r, i, generator=generator), torch.randn(o, r, generator=generator), scale)
        for name, (o, i) in shapes.items()
    }


def of(*rows: list[float]) -> Parent:
    """A parent whose update is this matrix."""
    update = torch.tensor(rows)
    return {"layer": (torch.eye(update.shape[1]), update, 1.0)}


def product(merged: methods.Merged, name: str = "layer") -> Tensor:
    a, b = merged.factors[name]
    return b @ a


def whole(parents: list[Parent], weights: list[float], name: str) -> Tensor:
    each = zip(parents, weights, strict=True)
    return torch.stack([weight * parent[name][2] * parent[name][1] @ parent[name][0] for parent, weight in each]).sum(0)


# Sums of twenty float32 products in another order.
ROUNDING: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def test_linear_is_the_weighted_sum_of_updates_whatever_the_ranks() -> None:
    parents, weights = [random_parent(0, 2), random_parent(1, 5, scale=0.5)], [0.75, -0.5]
    merged = methods.merge(parents, weights, "linear", 7, 1.0, 0)
    assert merged.kept == 1.0
    for name in ("wide", "narrow"):
        a, b = merged.factors[name]
        assert (len(a), b.shape[1]) == (7, 7)
        torch.testing.assert_close(b @ a, whole(parents, weights, name), **ROUNDING)


def test_svd_is_the_nearest_update_of_its_rank() -> None:
    parents, weights = [random_parent(0, 4), random_parent(1, 4)], [0.5, 0.5]
    merged = methods.merge(parents, weights, "svd", 4, 1.0, 0)
    lost = total = 0.0
    for name in ("wide", "narrow"):
        update = whole(parents, weights, name)
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        torch.testing.assert_close(product(merged, name), u[:, :4] * s[:4] @ v[:4], rtol=1e-4, atol=1e-4)
        total, lost = total + float(s.square().sum()), lost + float(s[4:].square().sum())
    assert merged.kept == pytest.approx(1 - lost / total, abs=1e-5)
    assert merged.kept < 0.99
    assert methods.merge(parents, weights, "svd", 8, 1.0, 0).kept == pytest.approx(1.0, abs=1e-5)


def test_ties_prunes_elects_a_sign_and_takes_the_mean_of_those_that_agree() -> None:
    parents = [of([4.0, -3.0, 0.5, 0.25]), of([2.0, 5.0, 0.5, -6.0])]  # a half is left: 4 -3 · · and · 5 · -6
    expected = torch.tensor([[4.0, 5.0, 0.0, -6.0]])
    torch.testing.assert_close(product(methods.merge(parents, [0.5, 0.5], "ties", 4, 0.5, 0)), expected, **ROUNDING)
    doubled = methods.merge(parents, [1.0, 1.0], "ties", 4, 0.5, 0)
    torch.testing.assert_close(product(doubled), 2 * expected, **ROUNDING)
    both = methods.merge([of([4.0, 1.0]), of([2.0, 3.0])], [0.5, 0.5], "ties", 2, 1.0, 0)
    torch.testing.assert_close(product(both), torch.tensor([[3.0, 2.0]]), **ROUNDING)


def test_magnitude_prune_sums_what_is_left() -> None:
    parents = [of([4.0, -3.0, 0.5, 0.25]), of([2.0, 5.0, 0.5, -6.0])]
    merged = methods.merge(parents, [0.5, 0.25], "magnitude_prune", 4, 0.5, 0)
    torch.testing.assert_close(product(merged), torch.tensor([[2.0, -0.25, 0.0, -1.5]]), **ROUNDING)


@pytest.mark.parametrize("how", ["dare_linear", "dare_ties"])
def test_dare_drops_by_its_seed_and_leaves_the_chance_of_others_alone(how: str) -> None:
    parents, weights = [random_parent(0, 2), random_parent(1, 2)], [0.5, 0.5]
    before = torch.get_rng_state()
    one, again, other = (methods.merge(parents, weights, how, 12, 0.5, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(product(one, "wide"), product(again, "wide"))
    assert not torch.allclose(product(one, "wide"), product(other, "wide"), atol=0.1)


def test_dare_multiplies_what_it_leaves_and_without_dropping_is_linear() -> None:
    kept = product(methods.merge([of([8.0] * 40), of([0.0] * 40)], [0.5, 0.5], "dare_linear", 40, 0.25, 0))
    assert {round(float(value), 3) for value in kept[0]} == {0.0, 16.0}
    parents = [random_parent(0, 2), random_parent(1, 2)]
    linear = methods.merge(parents, [0.5, 0.5], "linear", 4, 1.0, 0)
    dare = methods.merge(parents, [0.5, 0.5], "dare_linear", 4, 1.0, 0)
    torch.testing.assert_close(product(dare, "wide"), product(linear, "wide"), **ROUNDING)


def test_where_nothing_is_left_it_is_said() -> None:
    with pytest.raises(AdapterError, match=r"nothing is left of the updates, merged by ties with a density of 0\.001"):
        methods.merge([random_parent(0, 2)], [1.0], "ties", 2, 0.001, 0)
