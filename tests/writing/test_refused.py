"""What an encoder-decoder cannot do is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pefttune
from pefttune.data import Row
from pefttune.errors import BaseError, DataError


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_tasks_that_write_nothing_are_refused_before_training(recipe_for: Any, task: str, tmp_path: Path) -> None:
    with pytest.raises(BaseError) as raised:
        pefttune.run(recipe_for("T5", task=task))
    assert str(raised.value) == (
        f"{task} reads the states of a decoder or an encoder, and this base is an encoder-decoder, which does "
        "summarization and text-generation: take a base like Llama or BERT"
    )
    assert list((tmp_path / "adapters").rglob("*")) == []


@pytest.mark.parametrize("layers", ["top-1", [0]])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_some_layers_alone_are_refused(recipe_for: Any, layers: Any) -> None:
    with pytest.raises(BaseError) as raised:
        pefttune.run(recipe_for("Bart", {"adapter.layers": layers}))
    assert str(raised.value) == (
        "adapter.layers: this base is an encoder-decoder, and its encoder and its decoder count their layers each from "
        "0; leave it out, so that all are adapted, or choose modules by adapter.target_modules"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.max_length": 129}, "data.max_length: 129 tokens are more than this base reads; it has 128"),
        (
            {"data.max_length": 21},
            "data.max_length: 21 tokens leave no room for a text; what stands around it takes 22",
        ),
        (
            {"task.max_new_tokens": 97},
            "data.max_length: 96 tokens are fewer than the 97 of task.max_new_tokens; raise the one or lower the other",
        ),
    ],
)
@pytest.mark.usefixtures("_fresh_accelerate")
def test_limits_that_cannot_be_kept_are_refused(recipe_for: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError) as raised:
        pefttune.run(recipe_for("Bart", changes))
    assert str(raised.value) == told


def test_features_are_refused(pairs_of: Any) -> None:
    from pefttune.inference import extract

    with pytest.raises(BaseError) as raised:
        next(extract(pairs_of("T5"), [Row({"text": "x"}, "row 1")], "mean", 32))
    assert str(raised.value) == (
        "this base is an encoder-decoder, whose states are not read as features: take a decoder or an encoder"
    )


def test_a_base_that_does_not_say_how_it_begins_is_refused(
    new_encoder_decoder: Any, base_of: Any, tmp_path: Path
) -> None:
    folder = new_encoder_decoder(tmp_path / "bart", "Bart", decoder_start_token_id=None)
    with pytest.raises(BaseError) as raised:
        base_of(folder)
    assert str(raised.value) == (
        f"{folder}: its config.json has no decoder_start_token_id, with which BartForConditionalGeneration begins to "
        "write"
    )


def test_a_base_that_does_not_say_what_its_decoder_reads_is_refused(
    new_encoder_decoder: Any, base_of: Any, tmp_path: Path
) -> None:
    from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

    folder = new_encoder_decoder(tmp_path / "blender", "Bart")
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = BlenderbotConfig(vocab_size=260, d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, **small)
    BlenderbotForConditionalGeneration(config).save_pretrained(folder)
    with pytest.raises(BaseError) as raised:
        base_of(folder)
    assert str(raised.value) == (
        f"{folder}: transformers' BlenderbotForConditionalGeneration does not say what its decoder reads in training; "
        "encoder-decoders such as T5, BART, Pegasus and Marian can be a base"
    )
