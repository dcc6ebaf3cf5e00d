"""Jobs and results as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.job import BaseChoice, Example, Job, LoraChoice, Result


def test_a_job_comes_back_whole(tmp_path: Path) -> None:
    examples = [Example([1, 2], [[3], [4, 5]], 1), Example([1], [], 0)]
    job = Job("sst2", BaseChoice("somewhere"), examples, [[1, 0]], LoraChoice(layers=[1]), settings={"variant": "best"})
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert job.examples_of(0) == examples[::-1]


def test_a_result_comes_back_whole(tmp_path: Path) -> None:
    result = Result([1.0], 2.0, 3.0, {"torch": "2"}, losses=[4.0], positions=[5], labelled=[6], scores=[[7.0]])
    (tmp_path / "result.json").write_text(json.dumps(asdict(result)))
    assert Result.read(tmp_path / "result.json") == result


def test_tokens_of_an_example() -> None:
    assert Example([1, 2], [[3], [4, 5]], 1).answer == [4, 5]
    assert len(Example([1, 2], [[3], [4, 5]], 1)) == 4
    assert len(Example([1, 2], [], 1)) == 2
