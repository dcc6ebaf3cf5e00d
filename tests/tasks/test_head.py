"""A head is the layer that transformers' own class has, behind the frozen pooler of an encoder that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pefttune import tasks
from pefttune.batching import hidden_rows, padded
from pefttune.data import Example
from pefttune.recipe import tasks as sections
from pefttune.tasks.head import Head

ROWS_ND = torch.randn(5, 32, generator=torch.Generator().manual_seed(7))


def new_head(model: Any, *, causal: bool, labels: tuple[str, ...] = ("a", "b", "c"), approach: str = "head") -> Any:
    section = sections.TextClassification(type="text-classification", approach=approach, labels=labels)
    return tasks.get(section).new_head(model, causal=causal)


def test_the_head_of_a_decoder_is_a_layer_without_bias(model_of: Any) -> None:
    head = new_head(model_of("Llama"), causal=True)
    assert {key: tuple(p.shape) for key, p in head.by_key().items()} == {"score.weight": (3, 32)}
    assert (head.task_type, head.linear.weight.dtype) == ("SEQ_CLS", torch.float32)
    assert torch.equal(head(ROWS_ND), ROWS_ND @ head.linear.weight.T)


def test_it_is_as_wide_as_the_last_states(model_of: Any) -> None:
    """Those of OPT are projected back to the width of its embedding."""
    narrow = {"ffn_dim": 64, "word_embed_proj_dim": 16}
    model = model_of("OPT", **narrow)
    theirs = transformers.AutoModelForSequenceClassification.from_config(model.config)
    head = new_head(model, causal=True)
    assert head.linear.weight.shape == (3, 16) == (3, *theirs.score.weight.shape[1:])
    assert head(model.model(torch.tensor([[3, 4, 5]])).last_hidden_state[0]).shape == (3, 3)


def test_label_words_have_no_head(model_of: Any) -> None:
    assert new_head(model_of("Llama"), causal=True, approach="label-words") is None


def test_the_head_of_an_encoder_gives_what_transformers_own_class_does(tiny_encoder: Path) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3).eval()
    head = new_head(transformers.AutoModel.from_pretrained(tiny_encoder).eval(), causal=False)
    own = {key: tuple(p.shape) for key, p in head.by_key().items()}
    assert own == {"classifier.weight": (3, 32), "classifier.bias": (3,)}
    assert own.keys() <= theirs.state_dict().keys()
    theirs.load_state_dict({key: p.detach() for key, p in head.by_key().items()}, strict=False)
    ids = torch.tensor([[2, 9, 8, 7, 3]])
    with torch.no_grad():
        first_ND = theirs.bert(ids).last_hidden_state[:, 0]
        # One row here and one there, by the same products: equal.
        assert torch.equal(head(first_ND), theirs(ids).logits)
        assert not torch.allclose(head(first_ND), head.linear(first_ND), atol=0.1), "the pooler does nothing here"


@pytest.mark.parametrize("kind", ["BertModel", "AlbertModel"])
def test_poolers_of_either_form_are_used(kind: str) -> None:
    """BERT's takes the first token itself; ALBERT's is a layer whose activation stands beside it."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "initializer_range": 0.2}
    config = getattr(transformers, kind.replace("Model", "Config"))(**small, num_hidden_layers=1)
    model = getattr(transformers, kind)(config).eval()
    ids = torch.tensor([[2, 9, 8, 7, 3]])
    head = new_head(model, causal=False)
    with torch.no_grad():
        output = model(ids)
        assert torch.equal(head(output.last_hidden_state[:, 0]), head.linear(output.pooler_output))


def test_without_a_pooler_the_head_reads_the_first_token_itself(tiny_encoder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_encoder).eval()
    model.pooler = None
    head = new_head(model, causal=False)
    assert torch.equal(head(ROWS_ND), head.linear(ROWS_ND))


def test_the_pooler_is_the_bases_and_never_learns(tiny_encoder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_encoder).requires_grad_(False).eval()
    head = new_head(model, causal=False)
    head.train(True).requires_grad_(True)
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    head(ROWS_ND).sum().backward()
    assert head.linear.weight.grad is not None
    assert all(p.grad is None for p in model.parameters())


def test_a_new_head_is_as_small_as_the_base_begins(model_of: Any) -> None:
    model = model_of("Llama", initializer_range=0.3)
    torch.manual_seed(0)
    head = Head(model, 4000, key="score", task_type="SEQ_CLS")
    assert not head.linear.bias.any()
    # 128,000 draws: the deviation's own error is 0.3 / sqrt(256,000), of which this is five.
    assert float(head.linear.weight.detach().std()) == pytest.approx(0.3, abs=0.003)


def test_a_head_computes_in_float32_on_a_bfloat16_base(model_of: Any) -> None:
    model = model_of("Llama").to(torch.bfloat16)
    head = new_head(model, causal=True)
    examples = [Example((3, 4, 5), (), 1, "", marks=((2, 1),)), Example((6,), (), 0, "", marks=((0, 0),))]
    batch = padded(examples, 0, every_answer=False, device=torch.device("cpu"))
    logits = head(hidden_rows(model, batch))
    assert (logits.shape, logits.dtype) == ((2, 3), torch.float32)
    logits.sum().backward()
    assert head.linear.weight.grad is not None


def test_the_pooler_computes_in_the_dtype_of_the_base_and_the_layer_in_float32(tiny_encoder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_encoder, dtype=torch.bfloat16).eval()
    head = new_head(model, causal=False)
    seen: list[torch.dtype] = []
    model.pooler.dense.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    assert head(ROWS_ND.bfloat16()).dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert isinstance(head.linear, nn.Linear)
