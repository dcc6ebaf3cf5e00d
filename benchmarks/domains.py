"""`python -m benchmarks.domains matrix`: each stored adapter on the test rows of all their recipes; `python -m
benchmarks.domains warm-start`: each recipe trained on few rows, from nothing and from each of the others' adapters."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import report
from benchmarks.options import JsonFile, told_plainly

FRESH = "from nothing"
Store = Annotated[Path, typer.Option("--store", help="Adapters of one base, named as their recipes.")]
TestRows = Annotated[int, typer.Option(min=1, help="Test rows of each domain, chosen by content.")]
Matrix = Mapping[str, Mapping[str, float]]

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def matrix(store_folder: Store = Path("adapters"), rows: TestRows = 200, json_file: JsonFile = None) -> None:
    """The primary metric of each stored adapter on the test rows of each of them, without further training."""
    from pefttune import evaluation, inference, pipeline, store
    from pefttune.recipe import load_recipe

    names = store.names(store_folder)
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    with told_plainly():
        session = inference.open_session(names, store_folder)
        for domain in names:
            task, data = pipeline.read_data(load_recipe(domain, [f"data.max_test_samples={rows}"]))
            for name in names:
                scored = evaluation.score(session, name, data.test)
                found[name][domain] = float(task.primary_of(scored.tallies.sum(0)))
    report.write({"rows": rows, "matrix": found}, json_file)
    _print(f"adapter (line) on {rows} test rows of each domain (column)", found, names)


@app.command()
def warm_start(
    store_folder: Store = Path("adapters"),
    train_rows: Annotated[int, typer.Option(min=16, help="Training rows of each domain.")] = 160,
    rows: TestRows = 200,
    json_file: JsonFile = None,
) -> None:
    """The primary metric after a short training on each domain (column), from nothing and from each of the others'
    adapters (line). Those of one domain are trained together, in one pass."""
    from pefttune import store

    names = store.names(store_folder)
    found: dict[str, dict[str, float]] = {name: {} for name in (FRESH, *names)}
    with told_plainly(), tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shutil.copytree(store_folder, scratch / "adapters")
        limits = [f"data.max_train_samples={train_rows}", f"data.max_test_samples={rows}", "data.max_eval_samples=16"]
        for domain in names:
            others = [name for name in names if name != domain]
            for parent, metric in _trained(domain, others, limits, scratch).items():
                found[parent][domain] = metric
                report.out.print(f"{domain}, {parent}: {metric:.1%}")
    report.write({"train_rows": train_rows, "rows": rows, "matrix": found}, json_file)
    _print(f"trained on {train_rows} rows of each domain (column), begun with an adapter (line)", found, names)


def _trained(domain: str, parents: Sequence[str], limits: Sequence[str], scratch: Path) -> dict[str, float]:
    """The metric that the domain's recipe reaches from nothing and from each parent."""
    from pefttune import pipeline
    from pefttune.recipe import load_recipe

    places = [f"output.store={scratch}/adapters", f"output.runs={scratch}/runs"]
    always = [*limits, *places, "training.load_best_model_at_end=false", "training.eval_steps=1000000"]
    recipes = [load_recipe(domain, [*always, "output.name=fresh"])]
    for parent in parents:
        recipes.append(load_recipe(domain, [*always, f"output.name=from-{parent}", f"adapter.warm_start={parent}"]))
    reached = (_metric(run.manifest["comparison"]) for run in pipeline.run_together(recipes))
    return dict(zip((FRESH, *parents), reached, strict=True))


def _metric(comparison: Mapping[str, Any]) -> float:
    return float(comparison["adapter"][comparison["primary"]])


def _print(title: str, found: Matrix, domains: Sequence[str]) -> None:
    cells = [
        [name, *(f"{metrics[domain]:.1%}" if domain in metrics else "" for domain in domains)]
        for name, metrics in found.items()
    ]
    report.grid(title, ["", *domains], cells)


if __name__ == "__main__":
    app()
