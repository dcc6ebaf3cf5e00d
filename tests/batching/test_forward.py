"""Only scored rows go through the output layer, and only where that is the model's own last word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from pefttune.batching import Batch, collate, logits_are_linear, row_logits
from pefttune.data import Example

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
BENT = {  # these do something to the logits after their output layer
    "gemma2": (transformers.Gemma2ForCausalLM, transformers.Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8)),
    "cohere": (transformers.CohereForCausalLM, transformers.CohereConfig(**SMALL, logit_scale=0.25)),
    "granite": (transformers.GraniteForCausalLM, transformers.GraniteConfig(**SMALL, logits_scaling=4.0)),
}
STRAIGHT = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL)),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SMALL)),
    "gpt_neox": (transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(**SMALL)),
}


def made(kind: tuple[Any, Any]) -> Any:
    torch.manual_seed(0)
    return kind[0](kind[1]).eval()


def batch_of(lengths: tuple[int, ...] = (5, 2, 9)) -> Batch:
    examples = [Example(tuple(range(3, 3 + n)), ((7, 1), (9, 1)), 0, "") for n in lengths]
    return collate(examples, 0, every_answer=True, device=torch.device("cpu"), dtype=torch.float32)


@torch.no_grad()
def by_the_model(model: Any, batch: Batch) -> torch.Tensor:
    out = model(input_ids=batch.ids_BT, attention_mask=batch.mask, position_ids=batch.positions_BT, use_cache=False)
    return out.logits.flatten(0, 1)[batch.rows_N]


@pytest.mark.parametrize("name", BENT)
def test_models_that_bend_their_logits_keep_their_own_forward(name: str) -> None:
    model, batch = made(BENT[name]), batch_of()
    assert not logits_are_linear(model)
    with torch.no_grad():
        assert torch.equal(row_logits(model, batch), by_the_model(model, batch))
        naive = model.get_output_embeddings()(
            model.base_model(
                input_ids=batch.ids_BT, attention_mask=batch.mask, position_ids=batch.positions_BT
            ).last_hidden_state
        ).flatten(0, 1)[batch.rows_N]
    # The short way would really have given other logits.
    assert not torch.equal(naive, by_the_model(model, batch))


@pytest.mark.parametrize("name", STRAIGHT)
def test_models_with_plain_logits_run_the_output_layer_on_scored_rows_only(name: str) -> None:
    model, batch = made(STRAIGHT[name]), batch_of()
    assert logits_are_linear(model)
    rows: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: rows.append(inputs[0][..., 0].numel())
    )
    with torch.no_grad():
        logits = row_logits(model, batch)
    hook.remove()
    assert rows == [batch.n_scored]
    # A matrix product over fewer rows may take another kernel; 32 products in float32 differ by some 1e-7.
    assert (logits - by_the_model(model, batch)).abs().max() < 1e-6


def test_the_question_is_asked_once_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pefttune.batching.forward._compare", lambda model: asked.append(model) or True)
    first, second = made(STRAIGHT["llama"]), made(STRAIGHT["llama"])
    for model in (first, first, second):
        assert logits_are_linear(model)
    assert asked == [first, second]


def test_a_head_gets_float32_rows_of_a_bfloat16_model() -> None:
    model = made(STRAIGHT["llama"]).to(torch.bfloat16)
    head = torch.nn.Linear(32, 3, bias=False)
    examples = [Example((3, 4, 5), (), 1, ""), Example((6,), (), 0, "")]
    batch = collate(examples, 0, every_answer=True, device=torch.device("cpu"), dtype=torch.bfloat16)
    logits = row_logits(model, batch, head)
    assert logits.shape == (2, 3)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert head.weight.grad is not None


def test_logits_are_float32_whatever_the_model() -> None:
    model = made(STRAIGHT["llama"]).to(torch.bfloat16)
    examples = [Example((3, 4, 5), ((7, 1),), 0, "")]
    batch = collate(examples, 0, every_answer=True, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert row_logits(model, batch).dtype == torch.float32
