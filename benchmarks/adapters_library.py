"""`python -m benchmarks.adapters_library METHOD --peer-python PYTHON`: the `adapters` library on an encoder, beside
pefttune: the same method, head, rows, steps and seeds. Both are judged on the same held-out sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import report, workloads
from benchmarks.comparing import check_same_start, ratio, seconds_per_step
from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice, Job, Result
from benchmarks.options import Data, JsonFile, PeerPython, Rounds, Warmup, told_plainly
from benchmarks.peers import ADAPTERS_LIBRARY
from benchmarks.running import alternate, ours, run_program
from pefttune import bases

BASE = "minilm-l6"
ROWS = 16
GATE_SENTENCES = 64
TOLERANCE = 1e-4  # log-probabilities in float32, through six layers, padded rows against none
PEER = "adapters"


@dataclass(frozen=True)
class Method:
    """A method as our recipe and as the other library's configuration has it."""

    ours: dict[str, Any]
    theirs: dict[str, Any]
    learning_rate: float


# The library's own defaults, but for the bottleneck's width: with a reduction_factor of 2 both sides diverge.
METHODS = {
    "lora": Method(
        {"method": "lora", "r": 8, "lora_alpha": 8, "target_modules": ["query", "value"]},
        {"config": "LoRAConfig", "keys": {"r": 8, "alpha": 8}},
        1e-3,
    ),
    "bottleneck": Method(
        {"method": "bottleneck", "placement": "parallel", "reduction_factor": 16, "non_linearity": "relu"},
        {"config": "ParBnConfig", "keys": {"reduction_factor": 16, "non_linearity": "relu"}},
        1e-3,
    ),
}


def job_of(name: str, data: Path | None, steps: int, warmup: int, threads: int) -> Job:
    """Classes of sentences by a head on the encoder; judged by all test sentences. Raises BenchmarkError."""
    if name not in METHODS:
        raise BenchmarkError(f"there is no method {name!r} here; there are {', '.join(METHODS)}")
    method, folder = METHODS[name], bases.locate(BASE).folder
    tokenizer = workloads.tokenizer_of(folder)
    train, test = (workloads.sst2(tokenizer, data, part, approach="head", causal=False) for part in ("train", "test"))
    if len(train) < (count := (warmup + steps) * ROWS):
        raise BenchmarkError(f"there are {len(train)} training sentences; {warmup + steps} steps need {count}")
    return Job(
        f"sst2-{name}",
        BaseChoice(str(folder), quantization="none", dtype="float32"),
        [*train, *test],
        [list(range(start, start + ROWS)) for start in range(0, count, ROWS)],
        judged=list(range(len(train), len(train) + len(test))),
        warmup=warmup,
        classes=len(workloads.LABELS),
        learning_rate=method.learning_rate,
        threads=threads,
        settings={"ours": method.ours, "theirs": method.theirs},
    )


def of_seed(job: Job, seed: int) -> Job:
    """The job with other training sentences in another order, and another head, by that seed."""
    train = random.Random(seed).sample(range(len(job.examples) - len(job.judged)), sum(map(len, job.steps)))
    steps = [train[start : start + ROWS] for start in range(0, len(train), ROWS)]
    return replace(job, seed=seed, steps=steps)


def check_same_base(mine: Result, theirs: Result) -> None:
    """Raise BenchmarkError unless base and head, before any training, score the sentences alike."""
    worst = float(np.abs(np.array(mine.scores) - np.array(theirs.scores)).max())  # NaN, where there is one
    if not worst <= TOLERANCE:
        raise BenchmarkError(f"the gate is shut: base and head score up to {worst:.1e} apart, more than {TOLERANCE}")


def check_same_method(mine: Result, theirs: Result) -> None:
    """Raise BenchmarkError unless both train as many parameters and begin with the same loss."""
    own, other = mine.settings["parameters"], theirs.settings["parameters"]
    if own != other:
        raise BenchmarkError(f"ours trains {own:,} parameters, the peer {other:,}: that is not the same method")
    check_same_start(mine, theirs)


def accuracy(job: Job, result: Result) -> float:
    """How many of the judged sentences have their class as the likeliest."""
    targets = [job.examples[index].target for index in job.judged]
    hits = [row.index(max(row)) == target for row, target in zip(result.scores, targets, strict=True)]
    return sum(hits) / len(hits)


def compare(job: Job, rounds: int, python: str | None) -> dict[str, Any]:
    """The gate; then pairs of runs, each pair with a seed of its own."""
    gate = replace(job, steps=[], judged=job.judged[:GATE_SENTENCES])
    check_same_base(ours(gate), run_program(ADAPTERS_LIBRARY, gate, python))
    jobs = [of_seed(job, seed) for seed in range(rounds)]
    mine_next, theirs_next = iter(jobs), iter(jobs)
    pairs = alternate(
        lambda: ours(next(mine_next)), lambda: run_program(ADAPTERS_LIBRARY, next(theirs_next), python), rounds
    )
    for pair in pairs:
        check_same_method(*pair)
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        **report.heading(job),
        "peer": PEER,
        "sides": {"pefttune": describe(job, mine), PEER: describe(job, theirs)},
        "ratio": asdict(ratio(*([seconds_per_step(result, job.warmup) for result in side] for side in (mine, theirs)))),
    }


def describe(job: Job, results: Sequence[Result]) -> dict[str, Any]:
    """One side: accuracy of each seed, medians of the rest, and the runs without their scores."""
    return {
        "accuracy": [accuracy(job, result) for result in results],
        "examples_per_second": ROWS / median(seconds_per_step(result, job.warmup) for result in results),
        "peak_mib": median(result.peak_mib for result in results),
        "parameters": results[0].settings["parameters"],
        "runs": [asdict(replace(result, scores=[])) for result in results],
    }


def show(found: dict[str, Any]) -> None:
    """The table, and the ratio below it."""
    rows = [
        [
            name,
            f"{mean(side['accuracy']):.1%}",
            " ".join(f"{each:.1%}" for each in side["accuracy"]),
            f"{side['examples_per_second']:,.1f}",
            f"{side['parameters']:,}",
            f"{side['peak_mib']:,.0f}",
        ]
        for name, side in found["sides"].items()
    ]
    columns = ["", "accuracy", "of each seed", "examples/s", "trained parameters", "peak MiB"]
    report.grid(f"{found['workload']} on {BASE}: pefttune and {PEER}", columns, rows)
    report.out.print(report.spread(found))


def main(
    method: Annotated[str, typer.Argument(help=" or ".join(METHODS))],
    peer_python: PeerPython = None,
    json_file: JsonFile = None,
    rounds: Rounds = 3,
    steps: Annotated[int, typer.Option(min=1, help="Timed optimizer steps of 16 sentences.")] = 250,
    warmup: Warmup = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    data: Data = None,
) -> None:
    """Train both after the gate, in turns, a seed for each pair; then judge both on the test sentences."""
    with told_plainly():
        found = compare(job_of(method, data, steps, warmup, threads), rounds, peer_python)
    report.write(found, json_file)
    show(found)


if __name__ == "__main__":
    typer.run(main)
