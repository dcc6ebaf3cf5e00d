"""Only scored rows go through the output layer, and only where that is the model's own last word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pefttune.batching import (
    Batch,
    hidden_rows,
    likeliest_tokens,
    log_likelihoods,
    logits_are_linear,
    padded,
    ragged,
    target_log_likelihoods,
)
from pefttune.batching.forward import TargetLogLikelihood
from pefttune.data import Example

BENT = {  # these do something to the logits after their output layer
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
}
STRAIGHT = ["Llama", "Qwen2", "GPTNeoX"]


def batch_of(lengths: tuple[int, ...] = (5, 2, 9)) -> Batch:
    examples = [Example(tuple(range(3, 3 + n)), ((7, 1), (9, 1)), 0, "") for n in lengths]
    return padded(examples, 0, every_answer=True, device=torch.device("cpu"))


@torch.no_grad()
def by_the_model(model: Any, batch: Batch) -> Tensor:
    logits = model(input_ids=batch.ids_BT, attention_mask=batch.padding_mask_BT, use_cache=False).logits
    chances: Tensor = logits.flatten(0, 1)[batch.rows_N].float().log_softmax(-1)
    return chances.gather(1, batch.targets_N[:, None])[:, 0]


@pytest.mark.parametrize("name", BENT)
@torch.no_grad()
def test_models_that_bend_their_logits_keep_their_own_forward(model_of: Any, name: str) -> None:
    model, batch = model_of(name, **BENT[name]), batch_of()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    assert not logits_are_linear(model)
    expected = by_the_model(model, batch)
    # Two ways to the same logarithm: values near -10 have a last bit of 1e-6 in float32.
    assert (target_log_likelihoods(model, batch) - expected).abs().max() < 1e-5
    short = log_likelihoods(model, hidden_rows(model, batch), batch.targets_N)
    assert (short - expected).abs().max() > 1e-3, "the short way would have given the same"


@pytest.mark.parametrize("name", [*BENT, *STRAIGHT])
@torch.no_grad()
def test_the_likeliest_tokens_are_the_models_own(model_of: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.batching.forward.ROWS_AT_ONCE", 2)
    model, batch = model_of(name, **BENT.get(name, {})), batch_of()
    logits = model(input_ids=batch.ids_BT, attention_mask=batch.padding_mask_BT, use_cache=False).logits
    assert torch.equal(likeliest_tokens(model, batch), logits.flatten(0, 1)[batch.rows_N].argmax(-1))


@pytest.mark.parametrize("name", STRAIGHT)
@torch.no_grad()
def test_models_with_plain_logits_run_the_output_layer_on_scored_rows_only(
    model_of: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, rows = model_of(name), batch_of(), []
    assert logits_are_linear(model)
    monkeypatch.setattr(
        "pefttune.batching.forward.linear", lambda x, *weights: rows.append(len(x)) or nn.functional.linear(x, *weights)
    )
    found = target_log_likelihoods(model, batch)
    assert rows == [batch.n_scored]
    # A matrix product over fewer rows may take another kernel; 32 products in float32 differ by some 1e-7.
    assert (found - by_the_model(model, batch)).abs().max() < 2e-6


def test_the_question_is_asked_once_for_each_model(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pefttune.batching.forward._compare", lambda model: asked.append(model) or True)
    first, second = model_of("Llama"), model_of("Llama")
    for model in (first, first, second):
        assert logits_are_linear(model)
    assert asked == [first, second]


def test_log_likelihoods_are_float32_whatever_the_model(model_of: Any) -> None:
    model = model_of("Llama").to(torch.bfloat16)
    assert target_log_likelihoods(model, batch_of()).dtype == torch.float32


def textbook(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return nn.functional.linear(hidden, weight, bias).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def rows_of(n: int, dtype: torch.dtype, with_bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, 16).to(dtype).requires_grad_(), torch.randn(50, 16).to(dtype)
    return hidden, weight, torch.randn(50).to(dtype) if with_bias else None, torch.randint(50, (n,))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("at_once", [2, 128])
def test_log_likelihoods_and_gradients_are_the_textbooks(
    monkeypatch: pytest.MonkeyPatch, at_once: int, with_bias: bool
) -> None:
    monkeypatch.setattr("pefttune.batching.forward.ROWS_AT_ONCE", at_once)
    inputs = rows_of(7, torch.float32, with_bias)
    ours, theirs = TargetLogLikelihood.apply(*inputs), textbook(*inputs)
    # The same products in chunks of other height: float32's last bits, of values near -10.
    assert (ours - theirs).abs().max() < 4e-6
    weights = torch.linspace(-1, 3, 7)
    (mine,) = torch.autograd.grad((ours * weights).sum(), inputs[0])
    (other,) = torch.autograd.grad((theirs * weights).sum(), inputs[0])
    assert (mine - other).norm() < 1e-6 * other.norm()


def test_chunks_change_nothing_but_last_bits_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = rows_of(7, torch.bfloat16, True)
    whole = TargetLogLikelihood.apply(*inputs)
    (gradient,) = torch.autograd.grad(whole.sum(), inputs[0])
    exact = [None if x is None else x.detach().float() for x in inputs[:3]]
    truth = exact[0].requires_grad_()
    (expected,) = torch.autograd.grad(textbook(truth, exact[1], exact[2], inputs[3]).sum(), truth)
    # Logits of 8 bits: near 10 they are off by 0.03, and so are chances by 3 %.
    assert (gradient.float() - expected).norm() < 0.05 * expected.norm()
    monkeypatch.setattr("pefttune.batching.forward.ROWS_AT_ONCE", 3)
    assert (TargetLogLikelihood.apply(*inputs) - whole).abs().max() < 0.05


def test_where_no_gradient_is_asked_for_none_is_made(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of("Llama"), batch_of()
    rows = hidden_rows(model, batch).requires_grad_()
    slopes: list[int] = []
    honest = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x, **how: slopes.append(len(x)) or honest(x, **how))
    asked = log_likelihoods(model, rows, batch.targets_N)
    assert slopes == [batch.n_scored]
    unasked = log_likelihoods(model, rows.detach(), batch.targets_N)
    assert slopes == [batch.n_scored], "slopes are computed for nothing"
    assert unasked.grad_fn is None
    assert torch.equal(asked, unasked)


def test_a_ragged_batch_through_a_model_that_bends_its_logits(model_of: Any) -> None:
    model = model_of("Granite", **BENT["Granite"])
    examples = [Example(tuple(range(3, 3 + n)), ((7, 1), (9, 1)), 0, "") for n in (5, 2, 9)]
    from pefttune.batching import prepare

    prepare(model)
    batch = ragged(examples, every_answer=True, causal=True, device=torch.device("cpu"))
    # float32, in another order of sums
    torch.testing.assert_close(
        target_log_likelihoods(model, batch), by_the_model(model, batch_of()), rtol=1e-5, atol=1e-5
    )
