"""`python -m benchmarks.transfer forecast`: what `pefttune probe` foretells beside what real training reached, over the
pairs in transfer_truth.json; `python -m benchmarks.transfer shuffled`: what it says of labels that mean nothing."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from scipy.stats import kendalltau, norm, weightedtau

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.options import Data, JsonFile, told_plainly

if TYPE_CHECKING:
    from pefttune.evaluation.transfer.control import Control
    from pefttune.recipe import Recipe

TRUTH = Path(__file__).with_name("transfer_truth.json")
FEWEST = 4
HEAD_ALONE = ("banking77-features",)
AG_LABELS = ("World", "Sports", "Business", "Sci/Tech")

Models = Annotated[Path | None, typer.Option(help="Folder of small models that do not come along.")]
Only = Annotated[str, typer.Option(help="Only pairs whose name has this in it.")]

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
    models: Models = None,
    json_file: JsonFile = None,
    only: Only = "",
    seconds: Annotated[float, typer.Option(help="Begin no further pair after so many.")] = math.inf,
) -> None:
    """Probe each pair that the JSON file does not have yet, and compare all it has with the truth."""
    found = json.loads(json_file.read_text())["found"] if json_file and json_file.exists() else []
    known, begun = {one["name"] for one in found}, time.monotonic()
    with told_plainly(), tempfile.TemporaryDirectory() as folder:
        places = _places(data, models, Path(folder))
        for pair in _pairs(only):
            if pair["name"] in known or time.monotonic() - begun > seconds:
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


def _pairs(only: str) -> list[dict[str, Any]]:
    pairs = json.loads(TRUTH.read_text(encoding="utf-8"))["pairs"]
    return [pair for pair in pairs if only in pair["name"]]


def _share(one: dict[str, Any]) -> str:
    return f"{one['cpu_s']:.0f} s" + (f" of {one['trained_cpu_s']:,.0f}" if one["trained_cpu_s"] else "")


def _places(data: Path | None, models: Path | None, scratch: Path) -> dict[str, Path]:
    if data is None or models is None:
        raise BenchmarkError("--data and --models say where data sets and small models lie")
    write_ag_news(data / "ag_news" / "test.csv", scratch / "ag.jsonl")
    return {"data": data, "models": models, "ag": scratch / "ag.jsonl"}


@app.command()
def shuffled(
    data: Data = None,
    models: Models = None,
    json_file: JsonFile = None,
    only: Only = "",
    seed: Annotated[int, typer.Option(help="By which the labels are dealt.")] = 0,
) -> None:
    """Probe the pairs whose texts have one label each, with labels dealt anew among the texts: they mean nothing."""
    from pefttune import pipeline
    from pefttune.recipe import load_recipe

    found: dict[str, Control] = {}
    with told_plainly(), tempfile.TemporaryDirectory() as folder:
        places = _places(data, models, Path(folder))
        for pair in _pairs(only):
            recipe = load_recipe(pair["recipe"], [_filled(each, places) for each in pair["overrides"]])
            if recipe.task.type == "text-classification":
                probed = pipeline.probe(without_meaning(recipe, Path(folder) / f"{len(found)}.jsonl", seed))
                control = probed.report.bases[0].control
                assert control
                found[pair["name"]] = control
    report.write({"found": {name: asdict(control) for name, control in found.items()}}, json_file)
    cells = [
        [name, f"{one.real:.1%}", f"{one.chance:.1%} ± {one.deviation:.1%}", str(one.transfers)]
        for name, one in found.items()
    ]
    report.grid("labels dealt anew", ["", "mean recall", "19 further shuffles", "said to transfer"], cells)
    report.out.print(f"{sum(one.transfers for one in found.values())} of {len(found)} are said to transfer")


def without_meaning(recipe: Recipe, path: Path, seed: int) -> Recipe:
    """The recipe for the same texts, each with the label of another, which are written to a file."""
    from pefttune import pipeline
    from pefttune.recipe import schema

    data = pipeline.read_data(recipe)[1]
    rows = (*data.train, *data.validation, *data.test)  # rows fall into parts by content, here as there
    labels = [row.values["label"] for row in rows]
    random.Random(seed).shuffle(labels)
    dealt = ({"text": row.values["text"], "label": label} for row, label in zip(rows, labels, strict=True))
    path.write_text("".join(json.dumps(each) + "\n" for each in dealt), encoding="utf-8")
    section = schema.Data(train=[str(path)], split=recipe.data.split, max_length=recipe.data.max_length)
    output = recipe.output.model_copy(update={"runs": str(path.parent)})
    return recipe.model_copy(update={"data": section, "output": output})


if __name__ == "__main__":
    app()
