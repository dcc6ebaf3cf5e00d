"""The files of a published adapter, and how large each may be. Nothing else is sent, and nothing else is fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pefttune.bases import BASES
from pefttune.errors import AdapterError
from pefttune.methods.weights import CONFIG, WEIGHTS
from pefttune.store import MANIFEST

CARD = "README.md"
FIGURE = "figure.png"
MOST_BYTES = {CARD: 1 << 20, CONFIG: 1 << 20, WEIGHTS: 16 << 30, FIGURE: 16 << 20, MANIFEST: 16 << 20}
"""The weights' bound is that of rank 256 on all layers of a base of 70 billion parameters, in float32."""
PLAIN_NAME = r"[\w-]+"
"""Has nothing that a pattern could do; PEFT writes so that a head is all there is."""
RESULTS = ".eval_results/"
"""The Hub's folder of results for leaderboards; others may put theirs there, too. No part of an adapter."""


def check_config(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise AdapterError where what PEFT would read of the base is not what the manifest says, or a pattern has to be
    run to find the layers."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read as JSON: {error}") from None
    base = manifest["base"]
    told = (config.get("base_model_name_or_path"), config.get("revision")) if isinstance(config, dict) else None
    if told != (base["hub_id"] or base["origin"], base["revision"]):
        raise AdapterError(f"{path} names another base than {MANIFEST}")
    if manifest["recipe"]["base"]["source"] != base["source"] or base["hub_id"] not in (None, _hub_id(base["source"])):
        raise AdapterError(f"{folder / MANIFEST} names one base, and has another loaded")
    if isinstance(targets := config.get("target_modules"), str) and not re.fullmatch(PLAIN_NAME, targets):
        raise AdapterError(
            f"{path} names the layers by a pattern, and PEFT would run it: target_modules has to be a list"
        )


def _hub_id(source: str) -> str:
    """What a recipe's base is called on the Hub, if it is there."""
    return BASES[source].hub_id if source in BASES else source
