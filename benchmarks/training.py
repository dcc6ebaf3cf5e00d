"""`python -m benchmarks.training WORKLOAD --peer PEER`: training steps of pefttune beside those of another trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from benchmarks import accuracy, gate, peers, report, scaling, workloads
from benchmarks.errors import BenchmarkError
from benchmarks.options import (
    Data,
    JsonFile,
    KeepFreed,
    PeerName,
    PeerPython,
    Rounds,
    Rows,
    Steps,
    Threads,
    Warmup,
    told_plainly,
)
from benchmarks.running import run_program


def main(
    workload: Annotated[str, typer.Argument(help=f"{', '.join(workloads.WORKLOADS)}.")],
    peer: PeerName = "trl",
    json_file: JsonFile = None,
    peer_python: PeerPython = None,
    rounds: Rounds = 3,
    steps: Steps = 6,
    warmup: Warmup = 2,
    rows: Rows = None,
    threads: Threads = 2,
    data: Data = None,
    keep_freed: KeepFreed = True,
    grow: Annotated[bool, typer.Option("--scaling", help="Ours only: how a step grows.")] = False,
    to_accuracy: Annotated[float | None, typer.Option(help="Train until this accuracy; `--steps` at most.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between two looks at the accuracy.")] = 10,
    sentences: Annotated[int, typer.Option(min=1, help="Held-out sentences that it is judged by.")] = 300,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, constant, for everybody; with --to-accuracy.")] = 5e-4,
) -> None:
    """Compare training steps after the correctness gate, alternating fresh processes."""
    with told_plainly():
        chosen = workloads.find(workload)
        opponent = peers.find(peer, head=bool(chosen.classes))
        if workload != "sst2" and (grow or to_accuracy is not None):
            raise BenchmarkError("--scaling and --to-accuracy are measured with sst2")
        size = workloads.Size(warmup, steps, rows)
        show: Callable[[dict[str, Any]], None] = report.show
        if grow:
            gate.check()
            found = scaling.run(size, data, threads, rounds)
            show = scaling.show
        elif to_accuracy is not None:
            job = replace(chosen.job(workload, replace(size, warmup=0), data, threads), learning_rate=learning_rate)
            judged = workloads.label_likelihood(data, sentences, threads, part="dev", warmup=0)
            program = partial(run_program, opponent, python=peer_python, keep_freed=keep_freed)
            gate.check()
            found = accuracy.run(job, judged, peer, program, accuracy.Goal(to_accuracy, every), rounds)
            show = accuracy.show
        else:
            job = chosen.job(workload, size, data, threads)
            gate.check()
            found = report.compare(job, peer, opponent, peer_python, rounds, keep_freed=keep_freed)
        report.write(found, json_file)
        show(found)


if __name__ == "__main__":
    typer.run(main)
