"""What is measured of switching adapters, and what must be so before anything is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import swapping
from benchmarks.errors import BenchmarkError
from pefttune.inference import Session


class Peer(nn.Module):
    """The same base with the same adapters, as PEFT's model is asked; `apart` is added to the logits of one."""

    def __init__(self, session: Session, spoiled: str, apart: float) -> None:
        super().__init__()
        self.session, self.spoiled, self.apart = session, spoiled, apart

    def set_adapter(self, name: str) -> None:
        self.name = name

    def forward(self, ids: torch.Tensor) -> Any:
        self.session.use(self.name)
        said = self.session.base.model(ids)
        said.logits[0, -1, 0] += self.apart if self.name == self.spoiled else 0
        return said


@pytest.fixture
def session(base_of: Any, adapted: Any) -> Session:
    session = Session(base_of())
    adapted(session, "a", seed=1)
    adapted(session, "b", seed=2)
    return session


def test_the_gate_opens_for_rounding(session: Session) -> None:
    swapping.check_same_logits(session, Peer(session, "b", 1e-5), ["a", "b"])


@pytest.mark.parametrize("apart", [0.01, float("nan")])
@pytest.mark.parametrize("spoiled", ["a", "b"])
def test_the_gate_shuts_for_a_single_logit_of_any_adapter(session: Session, spoiled: str, apart: float) -> None:
    with pytest.raises(BenchmarkError, match=f"the gate is shut: {spoiled}'s logits are up to"):
        swapping.check_same_logits(session, Peer(session, spoiled, apart), ["a", "b"])


def test_one_adapter_is_not_switched(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    shutil.copytree(finished().run.folder, tmp_path / "store" / "only" / "1")
    with pytest.raises(BenchmarkError, match="store must hold two adapters or more of one base, to switch between"):
        swapping.compare(tmp_path / "store", rounds=1, threads=1)


def test_sides_take_turns_to_go_first() -> None:
    gone: list[str] = []
    for turn in range(4):
        ours, peer = swapping._pair(turn, lambda: gone.append("ours"), lambda: gone.append("peer"))
        assert min(ours, peer) >= 0
    assert gone == ["ours", "peer", "peer", "ours"] * 2
