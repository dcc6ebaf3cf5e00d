"""What a stored adapter adds to each weight, read without its base."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune.errors import AdapterError
from pefttune.inference import Session
from pefttune.methods import weights
from pefttune.publishing import read_updates
from pefttune.recipe.adapters import Lora


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / weights.WEIGHTS).read_bytes()).hexdigest()


@pytest.mark.parametrize("root", [False, True])
def test_patterns_and_rslora_are_in_the_scale(base_of: Any, adapted: Any, tmp_path: Path, root: bool) -> None:
    """As they act here, which tests/publishing/test_plain_peft.py holds against PEFT."""
    session = Session(base_of())
    ranks = {"model.layers.0.self_attn.q_proj": 2, "model.layers.1.mlp.up_proj": 8, "model.layers.1.mlp.down_proj": 0}
    keys = {"r": 4, "lora_alpha": 6, "rank_pattern": ranks, "use_rslora": root}
    lora = adapted(session, "a", **keys).adapter
    weights.write(tmp_path, lora.config(), lora.state(), "base", None)
    updates, acting = read_updates(tmp_path, Lora(method="lora", **keys), digest(tmp_path)), lora.updates
    assert {f"base_model.model.{name}" for name in updates} == acting.keys()
    assert {update.rank for update in updates.values()} == {2, 4, 8}
    for name, update in updates.items():
        a_rI, b_Or, scale = acting[f"base_model.model.{name}"]
        assert torch.equal(update.a_rI, a_rI)
        assert torch.equal(update.b_Or, b_Or)
        assert update.scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"q.lora_A.weight": (2, 8)}, "q has no A and B"),
        ({"q.lora_A.weight": (2, 8), "q.lora_B.weight": (8, 3)}, "q has no A and B"),
        ({"q.lora_A.weight": (2, 8), "q.lora_B.weight": (8, 2), "score.weight": (2, 8)}, "score.weight is no half"),
        ({}, "it has no update"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path: Path, tensors: dict[str, tuple[int, ...]], told: str) -> None:
    weights.write(tmp_path, {}, {key: torch.zeros(shape) for key, shape in tensors.items()}, "base", None)
    with pytest.raises(AdapterError, match=told):
        read_updates(tmp_path, Lora(method="lora", r=2), digest(tmp_path))


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    state = {"q.lora_A.weight": torch.zeros(2, 8), "q.lora_B.weight": torch.zeros(8, 2)}
    weights.write(tmp_path, {}, state, "base", None)
    seen = digest(tmp_path)
    weights.write(tmp_path, {}, {**state, "q.lora_B.weight": torch.ones(8, 2)}, "base", None)
    with pytest.raises(AdapterError, match="sha256"):
        read_updates(tmp_path, Lora(method="lora", r=2), seen)
