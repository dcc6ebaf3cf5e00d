"""Trials on Ray's workers, through Ray Tune: on this machine, or on a cluster. The halving stays here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pefttune.errors import InputError
from pefttune.pipeline import Bench, Failed, Tried
from pefttune.recipe import Recipe, recipe_from_mapping, to_mapping

if TYPE_CHECKING:
    from pefttune.sweep.sweeping import Train
    from pefttune.training import Notify

HERE = "local"


@contextmanager
def on_ray(address: str) -> Iterator[Train]:
    """Trains recipes on the cluster at that address, or on this machine if it is `local`; each alone, on a GPU of its
    own, or where there is none on a machine of its own. Raises InputError where there is no Ray, or none answers."""
    try:
        import ray
        from ray import tune  # its own needs may be missing
    except ImportError:
        raise InputError("--ray: Ray Tune is not installed; pip install 'pefttune[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no tables among ours
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address == HERE:
            ray.init(include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no Ray cluster answers there: {error}") from None
    resources = _for_one(ray.nodes())

    def train(recipes: Sequence[Recipe], notify: Notify) -> Iterator[Mapping[str, Tried | Failed]]:
        configs = [{"recipe": to_mapping(recipe), "folder": os.getcwd()} for recipe in recipes]
        with TemporaryDirectory() as folder:
            results = tune.Tuner(
                tune.with_resources(_trained, resources),
                param_space={"trial": tune.grid_search(configs)},
                run_config=tune.RunConfig(verbose=0, storage_path=folder),
            ).fit()
        for result in results:
            yield {result.config["trial"]["recipe"]["output"]["name"]: _read(result)}

    try:
        yield train
    finally:
        ray.shutdown()


def _for_one(nodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What one trial takes: a GPU, or all cores of the smallest machine, for torch uses them all."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(resources.get("GPU") for resources in alive):
        return {"gpu": 1}
    return {"cpu": min(resources["CPU"] for resources in alive if resources.get("CPU"))}


def _trained(config: dict[str, Any]) -> dict[str, str]:
    """On a worker: train one recipe in the folder where the sweep was started, so that its files are found."""
    trial = config["trial"]
    os.chdir(trial["folder"])
    recipe = recipe_from_mapping(trial["recipe"], where=trial["recipe"]["output"]["name"])
    [results] = Bench(apart=True).train([recipe], lambda event: None)
    return {"result": json.dumps(asdict(results[recipe.output.name]))}


def _read(result: Any) -> Tried | Failed:
    """What a worker gave; where it gave nothing, why."""
    if result.error is not None:
        return Failed(f"its worker failed: {str(result.error).strip().splitlines()[-1]}")
    told = json.loads(result.metrics["result"])
    return Failed(**told) if "reason" in told else Tried(**told)
