"""Seconds of training until a given accuracy: judged from saved adapters, by one program for everybody."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.comparing import check_same_start
from benchmarks.errors import BenchmarkError
from benchmarks.job import Job, Result
from benchmarks.peers import SCORER
from benchmarks.running import ours, run_program

Program = Callable[[Job], Result]


@dataclass(frozen=True)
class Goal:
    """The accuracy to reach, and how many optimizer steps lie between two looks."""

    accuracy: float
    every: int


def run(job: Job, judged: Job, name: str, peer: Program, goal: Goal, rounds: int) -> dict[str, Any]:
    """Both train on the same steps, each saves its adapter every few; evaluation and saving are not timed."""
    tries = []
    sides: list[tuple[str, Program]] = [("pefttune", ours), (name, peer)]
    for number in range(rounds):
        pair = {who: _train(job, judged, side, goal) for who, side in (sides[::-1] if number % 2 else sides)}
        check_same_start(*(found.pop("result") for found in pair.values()))
        tries.append(pair)
    return {**report.heading(job), "peer": name, "goal": goal.accuracy, "rounds": tries}


def _train(job: Job, judged: Job, side: Program, goal: Goal) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = side(replace(job, save_every=goal.every, save_folder=folder))
        told: dict[str, Any] = {"result": result, "seconds": None, "step": None, "looks": []}
        for step in range(goal.every, len(job.steps) + 1, goal.every):
            found = accuracy(replace(judged, adapter=str(Path(folder) / str(step))))
            told["looks"].append({"step": step, "seconds": sum(result.seconds[:step]), "accuracy": found})
            if found >= goal.accuracy:
                return told | {"seconds": sum(result.seconds[:step]), "step": step}
    return told


def accuracy(job: Job) -> float:
    """How many of the job's examples have their right answer as the likeliest one."""
    scores = run_program(SCORER, replace(job, settings={"canonical": True})).scores
    if len(scores) != len(job.examples):
        raise BenchmarkError(f"{len(scores)} of {len(job.examples)} examples were scored")
    right = [max(range(len(row)), key=row.__getitem__) == e.target for row, e in zip(scores, job.examples, strict=True)]
    return sum(right) / len(right)


def show(told: dict[str, Any]) -> None:
    """Seconds and steps of each side in each round."""
    rows = [
        [f"{who}, round {number}", *_cells(found)]
        for number, pair in enumerate(told["rounds"], start=1)
        for who, found in pair.items()
    ]
    report.grid(f"training until {told['goal']:.1%}", ["", "seconds", "steps", "last accuracy seen"], rows)


def _cells(found: dict[str, Any]) -> list[str]:
    last = f"{found['looks'][-1]['accuracy']:.1%}" if found["looks"] else "-"
    if found["step"] is None:
        return ["not reached", "-", last]
    return [f"{found['seconds']:.1f}", str(found["step"]), last]
