"""What is read back is what was written, or it is refused before anything is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pefttune import methods
from pefttune.errors import AdapterError
from pefttune.methods import weights
from pefttune.recipe.adapters import Lora


@pytest.fixture
def base(base_of: Any) -> Any:
    return base_of()


@pytest.fixture
def adapter(base: Any) -> methods.Adapter:
    attached = methods.attach(base.model, Lora(method="lora", r=4))
    torch.manual_seed(0)
    for parameter in attached.parameters.values():
        parameter.data.normal_(std=0.2)
    methods.activate(base.model, attached)
    return attached


@pytest.fixture
def folder(adapter: methods.Adapter, tmp_path: Path) -> Path:
    weights.write(tmp_path, adapter.config(), weights.copied(adapter.parameters), "org/base", "abc")
    return tmp_path


@torch.no_grad()
def logits(base: Any) -> Tensor:
    result: Tensor = base.model(torch.tensor([[5, 80, 33, 12, 240]])).logits
    return result


def rewritten(folder: Path, **changes: Tensor | None) -> dict[str, Tensor]:
    """The file with tensors replaced, added, or left out (None)."""
    state = {**load_file(folder / weights.WEIGHTS), **changes}
    kept = {key: tensor for key, tensor in state.items() if tensor is not None}
    save_file(kept, folder / weights.WEIGHTS, metadata={"format": "pt"})
    return kept


def test_state_goes_through_the_file_bit_by_bit(base: Any, adapter: methods.Adapter, folder: Path) -> None:
    before, state = logits(base), weights.copied(adapter.parameters)
    read = weights.read(folder, adapter.parameters)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    for parameter in adapter.parameters.values():
        parameter.data.zero_()
    assert not torch.equal(logits(base), before)
    weights.fill(adapter.parameters, read)
    assert torch.equal(logits(base), before)


def test_state_is_a_copy(adapter: methods.Adapter) -> None:
    state = weights.copied(adapter.parameters)
    key = next(iter(state))
    state[key].zero_()
    assert adapter.parameters[key].any()


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an output layer": ({"lm_head.weight": torch.ones(261, 32)}, r"lm_head\.weight is not a tensor of this adapter"),
    "a prefixed output layer": ({"base_model.model.lm_head.weight": torch.ones(261, 32)}, "not a tensor of this"),
    "a base layer": (
        {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight": torch.ones(32, 32)},
        r"base_layer\.weight is not a tensor of this adapter",
    ),
    "a layer more": ({KEY.replace("layers.0", "layers.2"): torch.ones(4, 32)}, "not a tensor of this adapter"),
    "a bias": ({KEY.replace("lora_A.weight", "lora_B.bias"): torch.ones(32)}, "not a tensor of this adapter"),
    "a tensor less": ({KEY: None}, r"q_proj\.lora_A\.weight is missing"),
    "another rank": ({KEY: torch.ones(8, 32)}, r"has shape \[8, 32\], but the base needs \[4, 32\]"),
    "turned": ({KEY: torch.ones(32, 4)}, r"has shape \[32, 4\], but the base needs \[4, 32\]"),
    "flat": ({KEY: torch.ones(128)}, r"has shape \[128\]"),
    "NaN": ({KEY: torch.full((4, 32), torch.nan)}, r"lora_A\.weight holds NaN or infinite values"),
    "one infinite value": (
        {KEY: torch.ones(4, 32).index_fill(1, torch.tensor([31]), -torch.inf)},
        "holds NaN or infinite values",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused(base: Any, adapter: methods.Adapter, folder: Path, fault: str) -> None:
    changes, message = FAULTS[fault]
    digest, before = base.digest(), logits(base)
    rewritten(folder, **changes)
    with pytest.raises(AdapterError, match=message):
        weights.read(folder, adapter.parameters)
    assert base.digest() == digest
    assert torch.equal(logits(base), before)


def test_every_fault_is_told_at_once(adapter: methods.Adapter, folder: Path) -> None:
    rewritten(folder, **{KEY: None, KEY.replace("_A", "_B"): torch.ones(1), "lm_head.weight": torch.ones(1)})
    with pytest.raises(AdapterError) as raised:
        weights.read(folder, adapter.parameters)
    told = str(raised.value).splitlines()
    assert len(told) == 4
    assert folder.name in told[0]


@pytest.mark.parametrize("left", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(base: Any, adapter: methods.Adapter, folder: Path, left: int) -> None:
    digest, path = base.digest(), folder / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors cannot be read"):
        weights.read(folder, adapter.parameters)
    assert base.digest() == digest


def test_a_file_that_is_not_there_is_told(adapter: methods.Adapter, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        weights.read(tmp_path / "nowhere", adapter.parameters)


def test_a_pickle_under_the_files_name_is_refused(adapter: methods.Adapter, folder: Path) -> None:
    torch.save(weights.copied(adapter.parameters), folder / weights.WEIGHTS)
    with pytest.raises(AdapterError, match="cannot be read"):
        weights.read(folder, adapter.parameters)


def test_the_files_are_what_peft_reads_and_everybody_may(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [weights.CONFIG, weights.WEIGHTS]
    config = json.loads((folder / weights.CONFIG).read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "org/base"
    assert config["revision"] == "abc"
    assert config["inference_mode"] is True
    assert sorted(config["target_modules"]) == config["target_modules"]
    assert (os.stat(folder / weights.WEIGHTS).st_mode & 0o777) == 0o644


def test_writing_twice_gives_the_same_bytes(adapter: methods.Adapter, folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    weights.write(again, adapter.config(), weights.copied(adapter.parameters), "org/base", "abc")
    for name in (weights.WEIGHTS, weights.CONFIG):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
