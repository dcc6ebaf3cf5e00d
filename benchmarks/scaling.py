"""How pefttune's seconds per step grow: with the rows, with the prefix they share, with the model. No peer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import random_base, report, workloads
from benchmarks.comparing import seconds_per_step
from benchmarks.job import Job
from benchmarks.machine import needed
from benchmarks.running import ours

ROWS = (8, 16, 32)
REPEATS = (1, 2, 4)
LAYERS = (15, 30, 60)


@dataclass(frozen=True)
class Point:
    """One job of a series."""

    series: str
    value: int
    job: Job


def points(size: workloads.Size, data: Path | None, threads: int, folder: Path) -> Iterator[Point]:
    """Every job; the random models are written into `folder` as they are reached."""
    usual = workloads.WORKLOADS["sst2"]
    for rows in ROWS:
        yield Point("rows", rows, usual.job("sst2", replace(size, rows=rows), data, threads))
    for times in REPEATS:
        examples = partial(workloads.sst2, instruction=" ".join([workloads.INSTRUCTION] * times))
        yield Point("prefix", times, replace(usual, examples=examples).job("sst2", size, data, threads))
    for layers in LAYERS:
        job = usual.job("sst2", size, data, threads)
        source = Path(job.base.folder)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        written = random_base.write(folder / str(layers), {**config, "num_hidden_layers": layers}, source)
        yield Point("layers", layers, replace(job, base=replace(job.base, folder=str(written))))


def run(size: workloads.Size, data: Path | None, threads: int, rounds: int) -> dict[str, Any]:
    """Seconds per step at each point, the median of `rounds` fresh processes."""
    found, heading = [], None
    with tempfile.TemporaryDirectory() as folder:
        for point in points(size, data, threads, Path(folder)):
            heading = heading or report.heading(point.job)
            results = [ours(point.job) for _ in range(rounds)]
            seconds = [seconds_per_step(result, size.warmup) for result in results]
            steps = [needed(point.job.examples_of(step)) for step in range(size.warmup, len(point.job.steps))]
            found.append(
                {
                    "series": point.series,
                    "value": point.value,
                    "needed_tokens_per_step": sum(step.tokens for step in steps) / len(steps),
                    "seconds_per_step": median(seconds),
                    "peak_mib": median(result.peak_mib for result in results),
                    "seconds": seconds,
                }
            )
    return {**(heading or {}), "scaling": found}


def show(told: dict[str, Any]) -> None:
    """The table; each row also as a multiple of the first of its series."""
    first: dict[str, float] = {}
    rows = []
    for point in told["scaling"]:
        start = first.setdefault(point["series"], point["seconds_per_step"])
        rows.append(
            [
                f"{point['series']} {point['value']}",
                f"{point['needed_tokens_per_step']:,.0f}",
                f"{point['seconds_per_step']:.3f}",
                f"{point['seconds_per_step'] / start:.2f}",
                f"{point['peak_mib']:,.0f}",
            ]
        )
    report.grid("how a step grows", ["", "tokens needed", "s/step", "times the first", "peak MiB"], rows)
