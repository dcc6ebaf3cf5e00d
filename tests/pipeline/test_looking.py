"""An adapter's weights, told from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pefttune import pipeline, store
from pefttune.errors import AdapterError
from pefttune.pipeline import by_layer


def test_ranks_scales_and_norms(family: Any) -> None:
    folder = family("head", "one") / "one" / "1"
    recipe = json.loads((folder / store.MANIFEST).read_text())["recipe"]
    found = pipeline.look("one")
    state = load_file(folder / "adapter_model.safetensors")
    assert (found.tensors, found.parameters) == (len(state), sum(each.numel() for each in state.values()))
    assert (found.dtypes, found.refused, len(found.modules)) == (("float32",), None, 14)
    for name, module in found.modules.items():
        a, b = (state[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "AB")
        singular = torch.linalg.svdvals(2.0 * b @ a)
        assert (module.r, module.scale) == (recipe["adapter"]["r"], 2.0)
        assert module.spectral == pytest.approx(float(singular[0]), rel=1e-12)  # float64, sums of 64 products
        assert module.frobenius == pytest.approx(float(singular.norm()), rel=1e-12)


def test_another_method_has_no_ranks(family: Any) -> None:
    folder = family("head", "one") / "one" / "1"
    recipe = json.loads((folder / store.MANIFEST).read_text())["recipe"]
    recipe["adapter"] = {"method": "ia3"}
    family.change(folder, recipe=recipe)
    found = pipeline.look("one")
    assert (found.modules, found.tensors) == ({}, 29)
    assert found.refused == "one@1 is a ia3: ranks and norms are those of what a lora adds to weights"


def test_a_file_that_holds_nan(family: Any) -> None:
    from safetensors.torch import save_file

    folder = family("head", "one") / "one" / "1"
    weights: Path = folder / "adapter_model.safetensors"
    state = load_file(weights)
    state["base_model.model.score.weight"][0, 0] = torch.nan
    save_file(state, weights)
    family.change(folder)
    with pytest.raises(AdapterError, match=r"score.weight holds NaN or infinite values"):
        pipeline.look("one")


def test_layers_are_paths_up_to_the_first_number() -> None:
    modules = ["model.layers.11.mlp.up_proj", "encoder.block.0.layer.1.k", "model.layers.11.mlp.down_proj", "lm_head"]
    assert by_layer(dict.fromkeys(modules, 1)) == {
        "model.layers.11": {"model.layers.11.mlp.up_proj": 1, "model.layers.11.mlp.down_proj": 1},
        "encoder.block.0": {"encoder.block.0.layer.1.k": 1},
        "lm_head": {"lm_head": 1},
    }
