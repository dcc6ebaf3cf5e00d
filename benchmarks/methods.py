"""`python -m benchmarks.methods`: every method on two real tasks: its metric, parameters, seconds, memory and bytes.

A cell is a task, a method and a seed: one `pefttune train` in a process of its own. Each finished one is a line of the
file of results, and is not run again, so that the command may be stopped and given once more; cells that failed are
tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import method_report, report
from benchmarks.errors import BenchmarkError
from benchmarks.options import Data, told_plainly
from benchmarks.running import LAST_LINES, environment
from benchmarks.settings import SETTINGS, TASKS, overrides_of
from pefttune import store

Cell = dict[str, Any]


def asked(task: str, method: str, seed: int, rows: int | None, epochs: float | None = None) -> Cell:
    """What a cell is known by."""
    return {"task": task, "method": method, "seed": seed, "overrides": overrides_of(task, method, rows, epochs)}


def run(cell: Cell, data: Path | None, threads: int) -> Cell:
    """Train it, and tell what its manifest says. Raises BenchmarkError with the last lines of a run that failed."""
    task = TASKS[cell["task"]]
    with tempfile.TemporaryDirectory(prefix="cell-") as folder:
        places = {"output.store": f"{folder}/adapters", "output.runs": f"{folder}/runs", "seed": cell["seed"]}
        overrides = {**cell["overrides"], **task.data(data), **places}
        words = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
        done = subprocess.run(
            [sys.executable, "-m", "pefttune", "train", str(task.recipe), *words, "--json"],
            cwd=folder,
            env=environment(threads, cuda=False, keep_freed=False),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            last = "\n  ".join(done.stdout.strip().splitlines()[-LAST_LINES:])
            raise BenchmarkError(f"{named(cell)} ended with {done.returncode}:\n  {last}")
        version = store.find(Path(folder) / "adapters", overrides["output.name"])
        return cell | measured(version)


def measured(version: Path) -> Cell:
    """What is told of a stored adapter: its scores on the test rows and what they cost."""
    manifest = store.read_manifest(version)
    comparison, training = manifest["comparison"], manifest["training"]
    primary = comparison["primary"]
    return {
        "metric": comparison["shown"][primary],
        "data": manifest["data"]["rows"],
        "score": comparison["adapter"][primary],
        "others": {name: metrics[primary] for name, metrics in comparison["others"].items()},
        "parameters": manifest["parameters"],
        "steps": training["steps"],
        "seconds": training["seconds"],
        "peak_mib": training["memory"]["peak_mib"],
        "file_bytes": (version / "adapter_model.safetensors").stat().st_size,
        "versions": manifest["versions"],
        "commit": report.commit(),
    }


def named(cell: Cell) -> str:
    """A cell in a few words."""
    return f"{cell['task']}, {cell['method']}, seed {cell['seed']}"


def read(results: Path) -> list[Cell]:
    """The finished cells. A line that was cut off while it was written is taken out of the file."""
    if not results.exists():
        return []
    text = results.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        results.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def finished(cells: Sequence[Cell], known: Sequence[Cell]) -> list[Cell]:
    """Those of the known cells that are asked for, with their settings as they are now."""
    return [one for one in known if any(one.items() >= cell.items() for cell in cells)]


def chosen(words: Sequence[str] | None, known: Sequence[str], called: str) -> list[str]:
    """The words, or all that are known. Raises BenchmarkError for one that is not."""
    for word in words or []:
        if word not in known:
            raise BenchmarkError(f"there is no {called} {word!r}; there are {', '.join(known)}")
    return list(words or known)


def tell(cells: Sequence[Cell], results: Path) -> str:
    """Write tables and figure of those that are finished; the tables again."""
    found = finished(cells, read(results))
    if found:
        method_report.draw(found, results.with_suffix(".png"))
    return method_report.write(found, results.with_suffix(".md"))


def run_missing(cells: Sequence[Cell], results: Path, data: Path | None, threads: int) -> bool:
    """Run the cells that are not finished yet, one after another; whether none failed."""
    well = True
    for cell in cells:
        if finished([cell], read(results)):
            continue
        report.out.print(named(cell))
        try:
            found = run(cell, data, threads)
        except BenchmarkError as error:  # the others go on
            sys.stderr.write(f"{error}\n")
            well = False
            continue
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found | {"threads": threads}) + "\n")
        tell(cells, results)
    return well


def main(
    results: Annotated[Path, typer.Option(help="File of finished cells; tables and figure go beside it.")] = Path(
        "methods.jsonl"
    ),
    methods: Annotated[list[str] | None, typer.Option("--method", help="By default all.")] = None,
    tasks: Annotated[list[str] | None, typer.Option("--task", help=f"By default {' and '.join(TASKS)}.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method and task, with seeds 0, 1, ….")] = 3,
    rows: Annotated[int | None, typer.Option(min=16, help="Training rows; test rows at most as many.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.1, help="Epochs; by default those of the recipes.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each run.")] = 1,
    data: Data = None,
) -> None:
    """Train every method on every task, with every seed, and write tables and a figure."""
    with told_plainly():
        kinds, works = chosen(methods, list(SETTINGS), "method"), chosen(tasks, list(TASKS), "task")
        data = data and data.resolve()  # each run has a folder of its own
        for task in works:
            TASKS[task].data(data)  # missing data is told now, not after an hour
        # Seeds come outermost, so that a run that is cut has compared all methods.
        cells = [
            asked(task, method, seed, rows, epochs)
            for seed in range(seeds)
            for task in works
            for method in kinds
            if task not in SETTINGS[method].not_for
        ]
        well = run_missing(cells, results, data, threads)
    report.out.print(tell(cells, results), highlight=False)
    if not well:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
