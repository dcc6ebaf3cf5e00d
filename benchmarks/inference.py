"""`python -m benchmarks.inference WORKLOAD`: scoring every label, beside padded rows in plain transformers; with
`mixed-adapters` each row by one of many adapters, beside PEFT's `adapter_names`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import report, workloads
from benchmarks.comparing import ratio
from benchmarks.errors import BenchmarkError
from benchmarks.job import Job, Result
from benchmarks.options import Data, JsonFile, KeepFreed, Rounds, Threads, told_plainly
from benchmarks.peers import SCORER
from benchmarks.random_adapters import write_adapters
from benchmarks.running import alternate, ours, run_program

TOLERANCE = 1e-3  # log-likelihoods in float32, through all layers
PEERS = {"label-likelihood": "padded rows", "mixed-adapters": "PEFT's adapter_names"}


def check_same_scores(ours_found: Result, peer_found: Result) -> None:
    """Raise BenchmarkError unless every score and every predicted label is the same."""
    rows = list(zip(ours_found.scores, peer_found.scores, strict=True))
    worst = max(abs(a - b) for mine, theirs in rows for a, b in zip(mine, theirs, strict=True))
    if not worst <= TOLERANCE:
        raise BenchmarkError(f"the gate is shut: scores in float32 are up to {worst:.1e} apart, more than {TOLERANCE}")
    if differing := sum(mine.index(max(mine)) != theirs.index(max(theirs)) for mine, theirs in rows):
        raise BenchmarkError(f"the gate is shut: {differing} of {len(rows)} predicted labels differ")


def compare(job: Job, rounds: int, keep_freed: bool) -> dict[str, Any]:
    """The same scores first, in float32 and on equal weights; then seconds, each as it comes."""
    exact = replace(job, warmup=0, base=replace(job.base, dtype="float32"))
    canonical = replace(exact, settings={**exact.settings, "canonical": True})
    check_same_scores(ours(exact), run_program(SCORER, canonical, keep_freed=keep_freed))
    pairs = alternate(lambda: ours(job), lambda: run_program(SCORER, job, keep_freed=keep_freed), rounds)
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        **report.heading(job),
        "peer": PEERS[job.workload],
        "keep_freed_memory": keep_freed,
        "sides": {"pefttune": describe(job, mine), PEERS[job.workload]: describe(job, theirs)},
        "ratio": asdict(ratio([r.seconds[0] for r in mine], [r.seconds[0] for r in theirs])),
    }


def describe(job: Job, results: list[Result]) -> dict[str, Any]:
    """One side: medians over its runs, and the runs without their scores."""
    seconds = sorted(result.seconds[0] for result in results)[len(results) // 2]
    return {
        "seconds": seconds,
        "examples_per_second": len(job.examples) / seconds,
        "prompt_tokens_per_second": sum(len(example.prompt) for example in job.examples) / seconds,
        "peak_mib": max(result.peak_mib for result in results),
        "runs": [asdict(replace(result, scores=[])) for result in results],
    }


def show(found: dict[str, Any]) -> None:
    """The table, and the ratio below it."""
    keys = ("seconds", "examples_per_second", "prompt_tokens_per_second", "peak_mib")
    rows = [[name, *(f"{side[key]:,.2f}" for key in keys)] for name, side in found["sides"].items()]
    columns = ["", "seconds", "examples/s", "prompt tokens/s", "peak MiB"]
    report.grid(f"{found['workload']}: pefttune and {found['peer']}", columns, rows)
    report.out.print(report.spread(found))


def main(
    workload: Annotated[str, typer.Argument(help=" or ".join(PEERS))],
    json_file: JsonFile = None,
    rounds: Rounds = 3,
    sentences: Annotated[int, typer.Option(min=1, help="Test sentences to score.")] = 256,
    adapters: Annotated[int, typer.Option(min=2, help="Adapters of mixed-adapters, which take turns.")] = 32,
    threads: Threads = 2,
    data: Data = None,
    keep_freed: KeepFreed = True,
) -> None:
    """Score both labels of each sentence, after the gate, alternating fresh processes."""
    with told_plainly():
        if workload not in PEERS:
            raise BenchmarkError(f"there is no workload {workload!r}; there is {' and '.join(PEERS)}")
        job = workloads.label_likelihood(data, sentences, threads)
        with tempfile.TemporaryDirectory() as folder:
            if workload == "mixed-adapters":
                folders = write_adapters(job, Path(folder), adapters)
                job = replace(job, workload=workload, settings={"adapters": folders})
            found = compare(job, rounds, keep_freed)
        report.write(found, json_file)
        show(found)


if __name__ == "__main__":
    typer.run(main)
