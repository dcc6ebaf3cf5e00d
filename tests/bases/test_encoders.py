"""Encoders (BERT and its kin) are bases too: known by their configuration, read without an output layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pefttune.bases.load import is_encoder
from pefttune.errors import BaseError


@pytest.mark.parametrize(
    ("config", "encoder"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, True),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, True),
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, True),
        ({"model_type": "bert"}, True),
        ({"model_type": "bert", "architectures": None}, True),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True}, False),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, True),
        ({"model_type": "roberta", "architectures": ["RobertaForCausalLM"]}, False),
        ({"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}, True),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, False),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True}, False),
        ({"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True}, False),
        ({"architectures": ["BertModel"]}, False),
    ],
)
def test_an_encoder_is_known_by_its_configuration(tmp_path: Path, config: dict[str, Any], encoder: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert is_encoder(tmp_path) is encoder


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_an_encoder_is_read_frozen_and_without_an_output_layer(
    base_of: Any, tiny_encoder: Path, quantization: str
) -> None:
    base = base_of(tiny_encoder, quantization=quantization)
    assert type(base.model) is transformers.BertModel
    assert base.model.get_output_embeddings() is None
    assert base.model.pooler is not None
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not any(module.training for module in base.model.modules())
    before = base.digest()
    with torch.no_grad():
        assert torch.isfinite(base.model(torch.arange(5)[None]).last_hidden_state).all()
    assert base.digest() == before
    assert base_of(tiny_encoder, quantization=quantization).fingerprint == base.fingerprint


def test_one_pretrained_without_a_pooler_has_none(base_of: Any, new_encoder: Any, tmp_path: Path) -> None:
    """A random one would be neither the base's nor saved with the adapter."""
    base = base_of(new_encoder(tmp_path / "bare", pooler=False))
    assert base.model.pooler is None
    assert not [name for name, _ in base.model.named_parameters() if "pooler" in name]
    torch.manual_seed(99)  # whatever the state of the generator is
    assert base_of(tmp_path / "bare").digest() == base.digest()


def test_one_saved_with_a_layer_for_masked_words_is_the_same_without(
    base_of: Any, new_encoder: Any, tmp_path: Path
) -> None:
    folder = new_encoder(tmp_path / "masked")
    whole = transformers.BertForMaskedLM.from_pretrained(folder)
    whole.save_pretrained(folder)
    assert {"bert.", "cls.pr"} == {key[:5] if key[:4] == "bert" else key[:6] for key in whole.state_dict()}
    base = base_of(folder)
    assert base.model.pooler is None
    for name, parameter in base.model.named_parameters():
        assert torch.equal(parameter, whole.bert.get_parameter(name)), name


def test_other_weights_that_are_missing_are_not_made_up(base_of: Any, new_encoder: Any, tmp_path: Path) -> None:
    file = new_encoder(tmp_path / "gap") / "model.safetensors"
    weights = load_file(file)
    key = next(key for key in weights if key.endswith("layer.1.output.dense.weight"))
    save_file({name: tensor for name, tensor in weights.items() if name != key}, file, metadata={"format": "pt"})
    with pytest.raises(BaseError, match=r"1 weights of BertModel are not in its files \(.*output\.dense\.weight"):
        base_of(tmp_path / "gap")


@pytest.mark.parametrize(
    "content", ["[]", "7", '{"model_type": ["bert"]}', '{"model_type": "bert", "architectures": 7}']
)
def test_a_configuration_that_is_none_is_told(base_of: Any, new_encoder: Any, tmp_path: Path, content: str) -> None:
    folder = new_encoder(tmp_path / "odd")
    (folder / "config.json").write_text(content)
    with pytest.raises(BaseError, match=r"odd: (the model cannot be loaded|its tokenizer cannot be read): "):
        base_of(folder)
