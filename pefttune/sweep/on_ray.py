"""Trials on Ray's workers: on this machine, or on a cluster. The halving stays here.

They are Ray's tasks, not trials of Ray Tune: that would begin a new process for each, which imports torch anew, and
stop trials by rules of its own.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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
    except ImportError:
        raise InputError("--ray: Ray is not installed; pip install 'pefttune[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    where: dict[str, Any] = {"include_dashboard": False} if address == HERE else {}
    if address != HERE:
        _check_answers(address)
    try:
        # `local` is Ray's own word, too: without it a cluster in RAY_ADDRESS would be taken.
        ray.init(address=address, **where, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:  # another version there, no room for its sockets, …
        raise InputError(f"--ray {address}: Ray does not begin: {error}") from error

    def train(recipes: Sequence[Recipe], notify: Notify) -> Iterator[Mapping[str, Tried | Failed]]:
        trained = ray.remote(**_for_one(address, ray.nodes()))(_trained)
        waiting = {trained.remote(to_mapping(recipe), os.getcwd()): recipe.output.name for recipe in recipes}
        while waiting:
            [done], _ = ray.wait(list(waiting))
            try:
                told = json.loads(ray.get(done))
            except ray.exceptions.RayError as error:
                told = {"reason": f"its worker failed: {str(error).strip().splitlines()[-1]}"}
            yield {waiting.pop(done): Failed(**told) if "reason" in told else Tried(**told)}

    try:
        yield train
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise InputError unless somebody listens there; Ray would look for a minute, and not say it in a sentence."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise InputError(f"--ray {address}: must be `local` or HOST:PORT, as `ray start --head` tells it")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray {address}: no Ray cluster answers there: {error}") from None


def _for_one(address: str, nodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What one trial takes: a GPU, or all cores of the smallest machine, for torch uses them all. Raises InputError
    where there is neither."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(resources.get("GPU") for resources in alive):
        return {"num_gpus": 1}
    cores = [resources["CPU"] for resources in alive if resources.get("CPU")]
    if not cores:
        raise InputError(f"--ray {address}: no machine of that cluster lends a core yet")
    return {"num_cpus": min(cores)}


def _trained(recipe: dict[str, Any], folder: str) -> str:
    """On a worker: what came of one recipe, as JSON, in the folder where the sweep was started, so that its files are
    found."""
    os.chdir(folder)
    checked = recipe_from_mapping(recipe, where=recipe["output"]["name"])
    [results] = Bench(apart=True).train([checked], lambda event: None)
    return json.dumps(asdict(results[checked.output.name]))
