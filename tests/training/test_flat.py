"""One buffer behind all parameters: what is done to either is done to both."""

from __future__ import annotations

import torch
from torch import nn

from pefttune.training.flat import FlatParameters


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(3, 2)), "b": nn.Parameter(torch.randn(4)), "c": nn.Parameter(torch.randn(1))}


def test_parameters_keep_identity_values_and_shape() -> None:
    trainable = parameters()
    before = {key: parameter.detach().clone() for key, parameter in trainable.items()}
    same = dict(trainable)
    flat = FlatParameters(trainable)
    for key, parameter in trainable.items():
        assert parameter is same[key]
        assert torch.equal(parameter.detach(), before[key])
    assert torch.equal(flat.whole.detach(), torch.cat([value.flatten() for value in before.values()]))
    with torch.no_grad():
        flat.whole.zero_()
    assert not any(parameter.any() for parameter in trainable.values())
    with torch.no_grad():
        trainable["b"].fill_(7)
    assert flat.whole.tolist() == [0] * 6 + [7] * 4 + [0]


def test_gradients_come_together_in_one() -> None:
    trainable = parameters()
    flat = FlatParameters(trainable)
    for _ in range(2):  # they add up, as gradients do
        (trainable["a"].sum() * 2 + trainable["c"].sum() * 3).backward()
    assert flat.whole.grad is not None
    assert flat.whole.grad.tolist() == [4.0] * 6 + [0.0] * 4 + [6.0]
    flat.whole.grad.zero_()
    assert not any(parameter.grad.any() for parameter in trainable.values() if parameter.grad is not None)
    trainable["b"].sum().backward()
    assert flat.whole.grad.tolist() == [0.0] * 6 + [1.0] * 4 + [0.0]


def test_a_step_on_the_whole_is_a_step_on_each() -> None:
    ours, theirs = parameters(), parameters()
    flat = FlatParameters(ours)
    one = torch.optim.AdamW([flat.whole], lr=0.1, weight_decay=0.01)
    many = torch.optim.AdamW(list(theirs.values()), lr=0.1, weight_decay=0.01)
    for _ in range(3):
        for trainable, optimizer in ((ours, one), (theirs, many)):
            optimizer.zero_grad(set_to_none=False)
            sum((parameter - 1).pow(2).sum() for parameter in trainable.values()).backward()
            optimizer.step()
    for key, parameter in ours.items():
        # The same operations on each number, vectorised over other lengths: float32's last bit at most.
        torch.testing.assert_close(parameter.detach(), theirs[key].detach(), rtol=1e-6, atol=0)


def test_gradients_can_be_let_go() -> None:
    trainable = parameters()
    flat = FlatParameters(trainable)
    flat.forget_gradients()
    assert flat.whole.grad is None
    assert all(parameter.grad is None for parameter in trainable.values())
