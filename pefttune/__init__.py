"""pefttune: one recipe, from YAML to a trusted adapter on a frozen, quantized base.

    import pefttune

    session = pefttune.open_session("film-sentiment")
    for prediction in session.predict(["A gem.", "Two hours I will not get back."]):
        print(prediction.label, prediction.confidence)

Names are imported when they are first used, so `import pefttune` is instant. It sets what the libraries under torch
read from the environment (`pefttune.environment`), so import it before torch computes anything.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from pefttune import environment, without_kernels

if TYPE_CHECKING:
    from pefttune.errors import PefttuneError
    from pefttune.inference import Session, open_session
    from pefttune.pipeline import Run, evaluate, run
    from pefttune.recipe import Recipe, load_recipe
    from pefttune.tasks import Prediction

__all__ = ["PefttuneError", "Prediction", "Recipe", "Run", "Session", "evaluate", "load_recipe", "open_session", "run"]
__version__ = importlib.metadata.version("pefttune")

environment.prepare()
without_kernels.guard()

_ROOMS = {
    "PefttuneError": "errors",
    "Prediction": "tasks",
    "Recipe": "recipe",
    "Run": "pipeline",
    "Session": "inference",
    "evaluate": "pipeline",
    "load_recipe": "recipe",
    "open_session": "inference",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'pefttune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pefttune.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
