"""A loaded base is frozen, in eval mode, quantized as asked, and its digest sees every byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import transformers

from pefttune.bases.load import let_go_of_file
from pefttune.bases.machine import choose_device, choose_dtype
from pefttune.errors import BaseError
from pefttune.recipe import schema

QUANTIZATIONS = ["nf4", "fp4", "int8", "none"]
LINEAR = {"nf4": bnb.nn.Linear4bit, "fp4": bnb.nn.Linear4bit, "int8": bnb.nn.Linear8bitLt, "none": torch.nn.Linear}


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """4-bit layers stay bitsandbytes' own, as where memory is short."""
    monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_quantization_loads_frozen(base_of: Any, no_room: None, quantization: str) -> None:
    base = base_of(quantization=quantization)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    linear = [module for name, module in base.model.named_modules() if name.endswith("_proj")]
    assert len(linear) == 14
    assert {type(module) for module in linear} == {LINEAR[quantization]}
    assert not isinstance(base.model.get_output_embeddings(), bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)
    with torch.no_grad():
        logits = base.model(torch.arange(8)[None]).logits
    assert torch.isfinite(logits).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_weight_file_is_let_go(base_of: Any, quantization: str) -> None:
    base = base_of(quantization=quantization)  # in the dtype of the file, which needs no copy of its own
    assert str(base.located.folder / "model.safetensors") not in Path("/proc/self/maps").read_text()


def test_whole_numbers_of_the_weight_file_are_let_go_too(tmp_path: Path) -> None:
    (tmp_path / "mapped").write_bytes(bytes(64))
    model = torch.nn.Module()
    model.register_buffer("places", torch.from_file(str(tmp_path / "mapped"), shared=True, size=8, dtype=torch.int64))
    let_go_of_file(model)
    (tmp_path / "mapped").write_bytes(bytes([1] * 64))
    assert not model.places.any()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_module_is_in_eval_mode(base_of: Any, quantization: str) -> None:
    assert not any(module.training for module in base_of(quantization=quantization).model.modules())


def test_the_schema_offers_no_other_quantization() -> None:
    assert set(schema.Base.model_fields["quantization"].annotation.__args__) == set(QUANTIZATIONS)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_4_bit_kind_and_double_quantization_are_what_was_asked_for(base_of: Any, no_room: None, kind: str) -> None:
    for double in (True, False):
        base = base_of(quantization=kind, double_quantization=double, dtype="bfloat16")
        state = base.model.model.layers[0].mlp.up_proj.weight.quant_state
        assert (state.quant_type, state.nested, state.dtype) == (kind, double, torch.bfloat16)


def test_frozen_names_every_parameter_and_what_quantization_keeps_beside(base_of: Any, no_room: None) -> None:
    base = base_of(quantization="nf4")
    name = "model.layers.0.mlp.up_proj.weight"
    assert {f"{name}.absmax", f"{name}.quant_map", f"{name}.nested_absmax"} <= base.frozen.keys()
    tensors = (*base.model.named_parameters(), *base.model.named_buffers())
    assert dict(tensors).keys() <= base.frozen.keys()
    assert base.weight_bytes < base_of().weight_bytes


def test_frozen_names_the_scales_of_int8(base_of: Any) -> None:
    base = base_of(quantization="int8")
    for part in ("mlp.up_proj", "mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj"):
        assert f"model.layers.0.{part}.weight.SCB" in base.frozen


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_digest_changes_with_any_frozen_byte_and_only_then(base_of: Any, quantization: str) -> None:
    base = base_of(quantization=quantization)
    at_first = base.digest()
    assert base.digest() == at_first
    with torch.no_grad():
        base.model(torch.arange(8)[None])
    assert base.digest() == at_first, "a forward pass changed the base"
    seen = {at_first}
    for tensor in base.frozen.values():
        last_byte = tensor.data.view(-1).view(torch.uint8)[-1:]
        last_byte ^= 1
        seen.add(base.digest())
        last_byte ^= 1
    assert base.digest() == at_first
    assert len(seen) == 1 + len(base.frozen)


def test_4_bit_layers_that_stay_have_a_digest_of_their_own(base_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = base_of(quantization="nf4")
    monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
    kept = base_of(quantization="nf4")
    assert kept.weight_bytes < dense.weight_bytes
    assert kept.fingerprint.differences(dense.fingerprint) == []  # one base, whichever way it is held
    name = "model.layers.0.mlp.up_proj.weight"
    byte = kept.frozen[f"{name}.absmax"].view(-1).view(torch.uint8)[-1:]
    before = kept.digest()
    byte ^= 1
    assert kept.digest() != before


def test_two_loads_are_the_same_base(base_of: Any) -> None:
    for quantization in QUANTIZATIONS:
        assert base_of(quantization=quantization).digest() == base_of(quantization=quantization).digest()


def test_the_dtype_is_asked_for_or_measured_with_a_reason(base_of: Any) -> None:
    asked = base_of(dtype="bfloat16")
    assert (asked.dtype, asked.dtype_reason) == (torch.bfloat16, "asked for")
    assert asked.model.dtype == torch.bfloat16
    measured = base_of(dtype="auto")
    assert measured.dtype in (torch.float32, torch.bfloat16)
    assert "times as fast as float32 here" in measured.dtype_reason
    assert measured.model.dtype == measured.dtype


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({torch.float32: 4.0, torch.bfloat16: 1.0}, torch.bfloat16),
        ({torch.float32: 1.2, torch.bfloat16: 1.0}, torch.float32),
        ({torch.float32: 1.0, torch.bfloat16: 2.0}, torch.float32),
    ],
)
def test_bfloat16_is_chosen_only_where_it_clearly_wins(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[torch.dtype, float], chosen: torch.dtype
) -> None:
    monkeypatch.setattr("pefttune.bases.machine._seconds", lambda dtype: seconds[dtype])
    assert choose_dtype("auto", torch.device("cpu"))[0] == chosen


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device, so `cuda` is no mistake here")
def test_cuda_where_there_is_none_is_told() -> None:
    with pytest.raises(BaseError, match=r"'cuda' is asked for, but torch sees no CUDA device here"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_loading_leaves_the_progress_bars_as_they_were(base_of: Any) -> None:
    shown = transformers.utils.logging.is_progress_bar_enabled()
    base_of()
    assert transformers.utils.logging.is_progress_bar_enabled() == shown
    transformers.utils.logging.disable_progress_bar()
    base_of()
    assert not transformers.utils.logging.is_progress_bar_enabled()
