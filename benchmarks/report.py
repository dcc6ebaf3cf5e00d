"""What a comparison found: everything as JSON, the essence as a table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.comparing import check_same_start, ratio, seconds_per_step
from benchmarks.job import Job, Result
from benchmarks.peers import OURS, Peer
from benchmarks.running import ROOT, alternate, ours, run_program

out = Console(width=150)
Pairs = Sequence[tuple[Result, Result]]


def compare(
    job: Job, name: str, peer: Peer, python: str | None, rounds: int, cuda: bool = False, keep_freed: bool = True
) -> dict[str, Any]:
    """Run both in turn and tell everything. Raises BenchmarkError when they do not compute the same."""
    shape = machine.Shape.of(job.base.folder)
    before = machine.gemm_rate(shape, job.threads, job.base.dtype, cuda)
    pairs = alternate(lambda: ours(job, cuda), lambda: run_program(peer, job, python, cuda, keep_freed), rounds)
    for mine, theirs in pairs:
        check_same_start(mine, theirs)
    rate = max(before, machine.gemm_rate(shape, job.threads, job.base.dtype, cuda))
    return {
        **heading(job, cuda),
        "peer": name,
        "same_steps": peer.same_steps,
        "keep_freed_memory": keep_freed,
        "gemm_flops_per_second": rate,
        "sides": {
            "pefttune": describe(job, OURS, [mine for mine, _ in pairs], rate),
            name: describe(job, peer, [theirs for _, theirs in pairs], rate),
        },
        "ratio": asdict(
            ratio(
                [seconds_per_step(mine, job.warmup) for mine, _ in pairs],
                [seconds_per_step(theirs, job.warmup) for _, theirs in pairs],
            )
        ),
    }


def heading(job: Job, cuda: bool = False) -> dict[str, Any]:
    """What was run, where and when; no path of this machine."""
    settings = asdict(job) | {"base": asdict(job.base) | {"folder": Path(job.base.folder).name}}
    for key in ("examples", "steps", "judged", "adapter", "save_folder"):
        del settings[key]
    return {
        "workload": job.workload,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine.describe(job.threads, cuda),
        "job": settings | {"steps": len(job.steps), "examples": len(job.examples)},
    }


def describe(job: Job, side: Peer, results: Sequence[Result], rate: float) -> dict[str, Any]:
    """One side: medians over its runs, and the runs."""
    timed = range(job.warmup, len(job.steps))
    examples = [job.examples_of(step) for step in timed]
    needs = [machine.needed(step) for step in examples]
    shape = machine.Shape.of(job.base.folder)
    flops = sum(machine.needed_flops(shape, job.lora, need, job.classes) for need in needs) / len(timed)
    real = sum(len(example) for step in examples for example in step) / len(timed)
    seconds = median(seconds_per_step(result, job.warmup) for result in results)
    cached = side.program == OURS.program and {**job.settings, **side.settings}.get("cached")
    positions = sum(results[0].positions[job.warmup : len(job.steps)]) / len(timed)
    return {
        "seconds_per_step": seconds,
        "examples_per_second": sum(map(len, examples)) / len(timed) / seconds,
        "real_tokens_per_second": real / seconds,
        "real_tokens_per_step": real,
        "needed_tokens_per_step": sum(need.tokens for need in needs) / len(timed),
        "labelled_per_step": sum(need.labelled for need in needs) / len(timed),
        "pad_factor": positions / real,
        # what a cache holds is not computed, so the operations that the loss needs are not those of a whole pass
        "share_of_gemm_ceiling": None if cached else flops / seconds / rate,
        "peak_mib": median(result.peak_mib for result in results),
        "runs": [asdict(result) for result in results],
    }


def commit() -> str:
    """The commit that was measured, marked when the working tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    return done.stdout.strip() or "unknown"


def write(report: dict[str, Any], path: Path | None) -> None:
    """Everything as JSON, if a file is given."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


COLUMNS = {
    "seconds_per_step": ("s/step", ".3f"),
    "examples_per_second": ("examples/s", ".2f"),
    "real_tokens_per_second": ("real tokens/s", ",.0f"),
    "real_tokens_per_step": ("tokens/step", ",.0f"),
    "needed_tokens_per_step": ("needed", ",.0f"),
    "pad_factor": ("computed/real", ".2f"),
    "share_of_gemm_ceiling": ("of GEMM ceiling", ".1%"),
    "peak_mib": ("peak MiB", ",.0f"),
}


def show(report: dict[str, Any]) -> None:
    """The table, and the ratio below it."""
    columns = [header for header, _ in COLUMNS.values()]
    rows = [
        [name, *("–" if side[key] is None else format(side[key], style) for key, (_, style) in COLUMNS.items())]
        for name, side in report["sides"].items()
    ]
    grid(f"{report['workload']}: pefttune and {report['peer']}", ["", *columns], rows)
    out.print(spread(report))
    if not report["same_steps"]:
        out.print("The peer's steps hold other examples than ours; all steps together hold the same.")


def spread(report: dict[str, Any]) -> str:
    """The ratio as a sentence."""
    found = report["ratio"]
    return (
        f"pefttune is {found['median']:.2f} times as fast "
        f"({found['lowest']:.2f} … {found['highest']:.2f} over {len(report['sides']['pefttune']['runs'])} pairs)"
    )


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, numbers to the right."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)
