"""Answers share a prompt only where side by side gives what one by one gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from pefttune.batching import prompts_can_be_shared
from pefttune.data import Row
from pefttune.errors import BaseError
from pefttune.inference import Session

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def model_of(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)  # fresh weights are so small that every model looks alike
    return model


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "GPTNeoX"])
def test_plain_decoders_share(kind: str) -> None:
    heads = {} if kind == "GPTNeoX" else {"num_key_value_heads": 2}
    assert prompts_can_be_shared(model_of(kind, **heads))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Mistral", {"num_key_value_heads": 2, "sliding_window": 4}),
        ("Lfm2", {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}),
    ],
)
def test_windows_and_recurrence_do_not_share(kind: str, changes: dict[str, Any]) -> None:
    assert not prompts_can_be_shared(model_of(kind, **changes))


def test_an_encoder_is_no_base() -> None:
    with pytest.raises(BaseError, match="what follows a token changes it, so it is no decoder"):
        prompts_can_be_shared(model_of("Bert"))


def test_a_model_that_takes_no_mask_of_ones_own_does_not_share() -> None:
    assert not prompts_can_be_shared(model_of("Bloom", n_head=4, n_layer=2))


def test_a_model_that_takes_no_positions_is_told() -> None:
    model = model_of("Llama")
    model.base_model.forward = lambda input_ids: None
    with pytest.raises(BaseError, match="does not run on ids with mask and positions"):
        prompts_can_be_shared(model)


def test_without_sharing_each_answer_has_a_prompt_of_its_own_and_scores_are_the_same(
    base_of: Any, adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(base_of())
    loaded = adapted(session, "a", labels=("bad", "so so", "good"))
    examples = [loaded.encoder(Row({"text": text}, text)) for text in ("x", "a rather longer film")]
    shared = session.scores("a", examples)
    monkeypatch.setattr("pefttune.inference.session.prompts_can_be_shared", lambda model: False)
    assert session.collate(examples, every_answer=True).ids_BT.shape[0] == 6
    # float32: the same sums in another order.
    torch.testing.assert_close(session.scores("a", examples), shared, rtol=1e-5, atol=1e-5)
