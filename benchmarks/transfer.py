"""`python -m benchmarks.transfer forecast`: what `pefttune probe` foretells beside what real training reached, over the
pairs in transfer_truth.json; `python -m benchmarks.transfer matrix`: each stored adapter on the others' test rows."""

from __future__ import annotations

import csv
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from scipy.stats import kendalltau, norm, weightedtau

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.options import Data, JsonFile, told_plainly

TRUTH = Path(__file__).with_name("transfer_truth.json")
FEWEST = 4
HEAD_ALONE = ("banking77-features",)
AG_LABELS = ("World", "Sports", "Business", "Sci/Tech")

app = typer.Typer(help=__doc__, add_completion=False)


def probe(pair: dict[str, Any], places: dict[str, Path], scratch: Path) -> dict[str, Any]:
    """What the command foretells for a pair, in a process of its own, and the processor seconds of that."""
    overrides = [_filled(each, places) for each in pair["overrides"]]
    command = [sys.executable, "-m", "pefttune", "probe", pair["recipe"], *overrides, f"output.runs={scratch}/runs"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=one_thread)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchmarkError(f"{pair['name']}: {done.stderr.strip().splitlines()[-1]}")
    document = json.loads(done.stdout)
    base = document["bases"][0]
    kept = ("metric", "low", "high", "probe", "exponent", "rows")
    return {
        "name": pair["name"],
        "truth": pair["metric"],
        "trained_cpu_s": pair["cpu_s"],
        "cpu_s": after.ru_utime - before.ru_utime,
        "tuned": pair["recipe"] not in HEAD_ALONE,
        "sampled": document["rows"],
        **{key: base["forecast"][key] for key in kept},
        "views": base["views"],
        "control": base["control"],
        "transfers": document["transfers"],
    }


def _filled(override: str, places: dict[str, Path]) -> str:
    """The override with the folders in it; its other braces are YAML."""
    for name, place in places.items():
        override = override.replace("{" + name + "}", str(place))
    return override


def write_ag_news(source: Path, target: Path) -> None:
    """AG News' CSV as rows of title and text with the names of the labels."""
    with source.open(encoding="utf-8", newline="") as file, target.open("w", encoding="utf-8") as rows:
        for kind, title, text in csv.reader(file):
            rows.write(json.dumps({"text": f"{title} {text}", "label": AG_LABELS[int(kind) - 1]}) + "\n")


def log_ratio(one: dict[str, Any]) -> float:
    """How far the error after training is from the one foretold."""
    return math.log(max(1 - one["truth"], 1e-3) / max(1 - one["metric"], 1e-3))


def spread_of(found: Sequence[dict[str, Any]]) -> float:
    """The one constant of the forecast's interval, as these pairs give it; a head alone has no part in it."""
    return math.sqrt(mean(log_ratio(one) ** 2 for one in found if one["tuned"]))


def inside(one: dict[str, Any], found: Sequence[dict[str, Any]], confidence: float = 0.95) -> bool:
    """Whether the truth lies in an interval whose constant is fitted on all other pairs, and which leaves out what the
    choice of sampled rows adds."""
    others = [other for other in found if other["name"] != one["name"]]
    return abs(log_ratio(one)) <= float(norm.ppf((1 + confidence) / 2)) * spread_of(others)


def judged(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlations with the truth, errors, intervals, and the share of time."""
    truths, foretold = [one["truth"] for one in found], [one["metric"] for one in found]
    timed = [one for one in found if one["trained_cpu_s"]]
    trained = sum(one["trained_cpu_s"] for one in timed)
    return {
        "pairs": len(found),
        "weighted_tau": float(weightedtau(truths, foretold).statistic),
        "weighted_tau_of_the_sampled_probe": float(weightedtau(truths, [one["probe"] for one in found]).statistic),
        "kendall_tau": float(kendalltau(truths, foretold).statistic),
        "mean_absolute_error": mean(abs(truth - told) for truth, told in zip(truths, foretold, strict=True)),
        "mean_ratio_of_errors": math.exp(mean(log_ratio(one) for one in found if one["tuned"])),
        "spread": spread_of(found),
        "inside_left_out_intervals": mean(inside(one, found) for one in found if one["tuned"]),
        "transfers": sum(one["transfers"] for one in found),
        "cpu_s": sum(one["cpu_s"] for one in timed),
        "trained_cpu_s": trained,
        "cpu_share": sum(one["cpu_s"] for one in timed) / trained,
    }


@app.command()
def forecast(
    data: Data = None,
    models: Annotated[Path | None, typer.Option(help="Folder of small models that do not come along.")] = None,
    json_file: JsonFile = None,
    only: Annotated[str, typer.Option(help="Only pairs whose name has this in it.")] = "",
    seconds: Annotated[float, typer.Option(help="Begin no further pair after so many.")] = math.inf,
) -> None:
    """Probe each pair that the JSON file does not have yet, and compare all it has with the truth."""
    found = json.loads(json_file.read_text())["found"] if json_file and json_file.exists() else []
    known, begun = {one["name"] for one in found}, time.monotonic()
    with told_plainly(), tempfile.TemporaryDirectory() as folder:
        places = _places(data, models, Path(folder))
        for pair in json.loads(TRUTH.read_text(encoding="utf-8"))["pairs"]:
            if (
                pair["metric"] is None
                or pair["name"] in known
                or only not in pair["name"]
                or time.monotonic() - begun > seconds
            ):
                continue
            found.append(probe(pair, places, Path(folder)))
            if json_file:
                json_file.write_text(json.dumps({"found": found}, indent=1) + "\n")
        if len(found) < FEWEST:
            raise BenchmarkError(f"{len(found)} pairs are too few to be ranked; {FEWEST} are the least")
    summary = judged(found)
    if json_file:
        json_file.write_text(json.dumps({"found": found, **summary}, indent=1) + "\n")
    columns = ("truth", "metric", "low", "high", "probe")
    cells = [[one["name"], *(f"{one[key]:.1%}" for key in columns), _share(one)] for one in found]
    report.grid("forecasts", ["", "truth", "forecast", "low", "high", "probe on the sample", "CPU"], cells)
    report.out.print(summary)


def _share(one: dict[str, Any]) -> str:
    return f"{one['cpu_s']:.0f} s" + (f" of {one['trained_cpu_s']:,.0f}" if one["trained_cpu_s"] else "")


def _places(data: Path | None, models: Path | None, scratch: Path) -> dict[str, Path]:
    if data is None or models is None:
        raise BenchmarkError("--data and --models say where data sets and small models lie")
    write_ag_news(data / "ag_news" / "test.csv", scratch / "ag.jsonl")
    return {"data": data, "models": models, "ag": scratch / "ag.jsonl"}


@app.command()
def matrix(
    store_folder: Annotated[Path, typer.Option("--store", help="Adapters of one base, named as their recipes.")] = Path(
        "adapters"
    ),
    rows: Annotated[int, typer.Option(min=1, help="Test rows of each domain, chosen by content.")] = 200,
    json_file: JsonFile = None,
) -> None:
    """The primary metric of each stored adapter on the test rows of each of them, without further training."""
    from pefttune import evaluation, inference, pipeline, store
    from pefttune.recipe import load_recipe

    names = store.names(store_folder)
    with told_plainly():
        session = inference.open_session(names, store_folder)
        found: dict[str, dict[str, float]] = {name: {} for name in names}
        for domain in names:
            task, data = pipeline.read_data(load_recipe(domain, [f"data.max_test_samples={rows}"]))
            for name in names:
                scored = evaluation.score(session, name, data.test)
                found[name][domain] = float(task.primary_of(scored.tallies.sum(0)))
    report.write({"rows": rows, "matrix": found}, json_file)
    cells = [[name, *(f"{found[name][domain]:.1%}" for domain in names)] for name in names]
    report.grid(f"adapter (line) on {rows} test rows of each domain (column)", ["", *names], cells)


if __name__ == "__main__":
    app()
