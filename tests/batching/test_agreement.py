"""Which bases read ragged batches, which get padded ones, and which are none; none computes anything else for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import BertConfig

from pefttune.batching import check_sees_all, disagreement, is_causal, prepare
from pefttune.data import Example
from pefttune.errors import BaseError
from pefttune.inference import Session

EXAMPLES = [
    Example(tuple(range(10, 10 + length)), ((7, 1), (8,), (9, 30, 31, 1)), length % 3, f"row {length}")
    for length in (12, 1, 40, 3, 25)
]
READ_RAGGED: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {},
    "Gemma3Text": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "GPTNeoX": {},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {},
}
GET_PADDED: dict[str, dict[str, Any]] = {
    "Lfm2": {"layer_types": ["conv", "full_attention"]},  # recurrent
    "Bloom": {"n_head": 4, "n_layer": 2},  # ALiBi
    "Falcon": {"alibi": True},
    "StableLm": {},  # drops what it is not asked for, the layout too
    # Attention that SDPA does not know: sinks, capped scores.
    "GptOss": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4},
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "sliding_window": 4},
}


@pytest.mark.parametrize("kind", READ_RAGGED)
def test_plain_decoders_read_ragged_batches(model_of: Any, kind: str) -> None:
    model = model_of(kind, **READ_RAGGED[kind])
    prepare(model)
    assert is_causal(model)
    assert disagreement(model, EXAMPLES, 0, causal=True) is None


@pytest.mark.parametrize("kind", GET_PADDED)
def test_others_get_padded_batches(model_of: Any, kind: str) -> None:
    model = model_of(kind, **GET_PADDED[kind])
    prepare(model)
    assert is_causal(model)
    assert disagreement(model, EXAMPLES, 0, causal=True) is not None


@pytest.mark.parametrize("kind", [*READ_RAGGED, *GET_PADDED])
@torch.no_grad()
def test_a_prepared_model_computes_what_it_did(model_of: Any, kind: str) -> None:
    model, ids = model_of(kind, **(READ_RAGGED | GET_PADDED)[kind]), torch.arange(5, 45)[None]
    for name, parameter in model.named_parameters():
        if "sinks" in name:
            parameter.data.normal_()
    before = model(ids, use_cache=False).logits
    prepare(model)
    assert torch.equal(model(ids, use_cache=False).logits, before)


@pytest.mark.parametrize("kind", ["Lfm2", "Bloom"])
def test_a_base_that_cannot_read_ragged_gets_the_right_result_by_padding(
    base_of: Any,
    model_of: Any,
    new_tokenizer: Any,
    adapted: Any,
    examples_of: Any,
    ragged: Any,
    tmp_path: Any,
    kind: str,
) -> None:
    new_tokenizer(tmp_path)
    model_of(kind, **GET_PADDED[kind]).save_pretrained(tmp_path)
    session = Session(base_of(tmp_path))
    loaded = adapted(session, "a", labels=("bad", "so so", "good"), std=0.05)
    examples = examples_of(loaded, ragged)
    assert session.collator.try_ragged(examples) is not None
    assert session.collator.collate(examples, every_answer=True).padding_mask_BT is not None
    found = session.scores("a", examples)
    for example, row in zip(examples, found, strict=True):
        for answer, score in zip(example.answers, row.tolist(), strict=True):
            with torch.no_grad():
                logits = session.base.model(torch.tensor([[*example.prompt, *answer]]), use_cache=False).logits[0]
            chances = logits.log_softmax(-1)
            alone = sum(float(chances[len(example.prompt) - 1 + i, token]) for i, token in enumerate(answer))
            assert score == pytest.approx(alone, rel=1e-5)  # float32, other widths, other order of sums


def test_a_model_that_does_not_run_on_ids_with_a_mask_is_no_base() -> None:
    class Deaf(torch.nn.Module):
        device, base_model = torch.device("cpu"), property(lambda self: self)
        config = BertConfig()

        def forward(self, pixel_values: torch.Tensor, **others: Any) -> None:
            raise AssertionError

    with pytest.raises(BaseError, match=r"^Deaf cannot be a base: it does not run on ids with a mask \("):
        is_causal(Deaf())


def test_an_encoder_reads_ragged_batches(model_of: Any) -> None:
    model = model_of("Bert")
    prepare(model)
    assert not is_causal(model)
    marked = [Example(example.prompt, (), None, "", marks=((0, 0),)) for example in EXAMPLES]
    assert disagreement(model, marked, 0, causal=False) is None


ONE_DIRECTION = {"Bloom", "Falcon", "StableLm"}
WITH_A_WINDOW = {"Mistral", "Gemma3Text"}


@pytest.mark.parametrize("kind", [*READ_RAGGED, *GET_PADDED])
def test_a_decoder_sees_all_when_told_or_is_refused(model_of: Any, kind: str) -> None:
    model = model_of(kind, **(READ_RAGGED | GET_PADDED)[kind])
    prepare(model)
    config = model.config.to_dict()
    told = [replace(e, answers=(), marks=tuple((i, 0) for i in range(len(e.prompt))), sees_all=True) for e in EXAMPLES]
    if kind in ONE_DIRECTION:
        with pytest.raises(BaseError, match=f"runs {type(model).__name__} in one direction only, so this base cannot"):
            check_sees_all(model)
    else:
        check_sees_all(model)
        assert (disagreement(model, told, 0, causal=True) is None) == (kind in READ_RAGGED.keys() - WITH_A_WINDOW)
    assert model.config.to_dict() == config
    assert is_causal(model)


def test_a_model_that_takes_no_mask_is_told(model_of: Any) -> None:
    model = model_of("Llama")
    model.base_model.forward = lambda input_ids: None
    with pytest.raises(BaseError, match="cannot be a base: it does not run on ids with a mask"):
        is_causal(model)


def test_a_leak_is_found_where_the_distance_would_pass_for_rounding(model_of: Any) -> None:
    model = model_of("Llama").bfloat16()
    prepare(model)

    def leak(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        so_far = output.cumsum(1) / torch.arange(1, output.shape[1] + 1)[:, None]  # as a recurrent layer's state
        return (output + 0.2 * so_far).to(output.dtype)

    with model.model.layers[0].register_forward_hook(leak):
        assert disagreement(model, EXAMPLES, 0, causal=True) == "one example changes what comes of another"
    assert disagreement(model, EXAMPLES, 0, causal=True) is None


def test_a_window_that_is_not_kept_is_found(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pefttune.batching.layout import Layout

    honest = Layout._sees
    monkeypatch.setattr(Layout, "_sees", lambda self, queries, keys, window: honest(self, queries, keys, None))
    for kind, is_read in (("Llama", True), ("Mistral", False)):
        model = model_of(kind)
        prepare(model)
        assert (disagreement(model, EXAMPLES, 0, causal=True) is None) == is_read


def test_a_base_is_asked_once(base_of: Any, adapted: Any, examples_of: Any, ragged: Any, monkeypatch: Any) -> None:
    session, asked = Session(base_of()), []
    examples = examples_of(adapted(session, "a"), ragged)
    monkeypatch.setattr("pefttune.inference.collating.disagreement", lambda *a, **how: asked.append(a) or "so it is")
    assert session.collator.try_ragged([]) is None
    assert session.collator.ragged is None
    assert session.collator.try_ragged(examples) == "so it is"
    assert session.collator.try_ragged(examples) is None
    assert session.collator.ragged is False
    assert len(asked) == 1


def test_without_ragged_batches_the_scores_are_the_same(
    base_of: Any, adapted: Any, examples_of: Any, ragged: Any
) -> None:
    session = Session(base_of())
    examples = examples_of(adapted(session, "a", labels=("bad", "so so", "good")), ragged)
    side_by_side = session.scores("a", examples)
    assert session.collator.ragged
    session.collator.ragged = False
    assert session.collator.collate(examples, every_answer=True).ids_BT.shape[0] == 24
    # float32: the same sums in another order.
    torch.testing.assert_close(session.scores("a", examples), side_by_side, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_experts_do_not_make_a_decoder_something_else(model_of: Any, kind: str) -> None:
    changes = {"num_local_experts": 4, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    assert is_causal(model_of(kind, head_dim=8, **changes))
