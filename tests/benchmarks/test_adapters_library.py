"""Beside the `adapters` library: what must be equal before a figure is told, and that ours trains an encoder's head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from benchmarks import adapters_library
from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice, Example, Job, Result
from benchmarks.programs import ours
from pefttune.recipe.adapters import AdapterSection


def result(scores: list[list[float]], parameters: int = 10, loss: float = 0.7) -> Result:
    return Result([1.0], 0.0, 0.0, {}, [loss], labelled=[2], scores=scores, settings={"parameters": parameters})


@pytest.fixture
def job(tiny_encoder: Path) -> Job:
    examples = [Example([2, 5 + number, 6, 3][: 3 + number % 2], [], number % 2) for number in range(12)]
    method = adapters_library.METHODS["lora"]
    return Job(
        "sst2-lora",
        BaseChoice(str(tiny_encoder), "none", "float32"),
        examples,
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        judged=[8, 9, 10, 11],
        classes=2,
        settings={"ours": method.ours, "theirs": method.theirs},
    )


def test_the_gate_opens_for_rounding_only() -> None:
    mine = result([[-0.1, -2.0], [-1.0, -0.5]])
    adapters_library.check_same_base(mine, result([[-0.1, -2.00005], [-1.0, -0.5]]))
    for apart in (-2.01, float("nan")):
        with pytest.raises(BenchmarkError, match="the gate is shut: base and head score up to"):
            adapters_library.check_same_base(mine, result([[-0.1, apart], [-1.0, -0.5]]))


def test_other_parameters_are_another_method() -> None:
    adapters_library.check_same_method(result([]), result([], loss=0.701))
    with pytest.raises(BenchmarkError, match="ours trains 10 parameters, the peer 12: that is not the same method"):
        adapters_library.check_same_method(result([]), result([], parameters=12))
    with pytest.raises(BenchmarkError, match="they do not compute the same"):
        adapters_library.check_same_method(result([]), result([], loss=0.9))


@pytest.mark.parametrize("name", adapters_library.METHODS)
def test_ours_is_a_section_of_a_recipe(name: str) -> None:
    assert TypeAdapter(AdapterSection).validate_python(adapters_library.METHODS[name].ours).method == name


def test_each_seed_draws_its_own_training_rows_and_no_judged_one(job: Job) -> None:
    one, same, other = (adapters_library.of_seed(job, seed) for seed in (0, 0, 1))
    assert one == same
    assert one.steps != other.steps
    for each in (one, other):
        drawn = [index for step in each.steps for index in step]
        assert len(drawn) == len(set(drawn)) == 8
        assert not set(drawn) & set(job.judged)


def test_accuracy_is_of_the_judged_examples(job: Job) -> None:
    right = [[-0.1, -2.0], [-2.0, -0.1]] * 2  # classes 0, 1, 0, 1
    assert adapters_library.accuracy(job, result(right)) == 1.0
    assert adapters_library.accuracy(job, result([[-2.0, -0.1], *right[1:]])) == 0.75


def test_ours_trains_a_head_on_an_encoder_and_judges_it(job: Job, tmp_path: Path) -> None:
    gate = replace(job, steps=[])
    before = ours.judge(gate, ours.open_session(gate))
    session = ours.open_session(job)
    assert ours.judge(job, session) == before  # a fresh adapter does nothing
    told: dict[str, Any] = ours.train(job, session, tmp_path)
    assert len(told["seconds"]) == len(told["losses"]) == 2
    assert told["scores"] != before
    assert told["settings"]["parameters"] == sum(p.numel() for p in session[ours.NAME].parameters.values())


def test_what_is_not_there_is_told(job: Job) -> None:
    with pytest.raises(BenchmarkError, match="there is no method 'lorra' here; there are lora, bottleneck"):
        adapters_library.job_of("lorra", None, 1, 1, 1)
