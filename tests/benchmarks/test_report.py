"""What a comparison tells of each side."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gate, peers, report
from benchmarks.job import Job, Result

RATE = 1e9


@pytest.fixture
def job(tmp_path: Path) -> Job:
    gate.write_base(tmp_path)
    return gate.job_of(str(tmp_path), 0)


def side(job: Job, peer: peers.Peer) -> dict[str, object]:
    steps = len(job.steps)
    result = Result([1.0] * steps, 0.0, 0.0, {}, positions=[1] * steps)
    return report.describe(job, peer, [result], RATE)


def test_the_share_of_the_ceiling_is_told_of_who_computes_the_whole_pass(job: Job) -> None:
    job.settings["cached"] = True
    assert side(job, peers.OURS)["share_of_gemm_ceiling"] is None
    for name in ("uncached", "trl"):
        share = side(job, peers.PEERS[name])["share_of_gemm_ceiling"]
        assert isinstance(share, float)
        assert share > 0


def test_what_has_no_share_is_shown_as_a_dash(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.settings["cached"] = True
    sides = {"pefttune": side(job, peers.OURS), "uncached": side(job, peers.PEERS["uncached"])}
    ratio = {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    report.show({"workload": "top8", "peer": "uncached", "sides": sides, "ratio": ratio, "same_steps": True})
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert ["–" in row for row in rows] == [True, False]
