"""`adapter_config.json`, read strictly: pefttune attaches by the recipe, but others who load the folder believe this
file, and would run what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pefttune.errors import AdapterError
from pefttune.methods.settings import NOWHERE
from pefttune.methods.weights import CONFIG
from pefttune.recipe.adapters import LARGEST_ALPHA, LARGEST_RANK
from pefttune.store.strict_json import read_json, shown

MAX_BYTES = 1 << 20
MOST_TOLD = 5
NAME = re.compile(r"[\w.-]{1,256}")
"""A module's path. PEFT runs the keys of `rank_pattern` and others as patterns; of these letters none takes long."""
NAMES = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules")
BY_NAME = ("rank_pattern", "alpha_pattern")
NEVER = ("layer_replication", "layers_pattern", "auto_mapping", "target_parameters")
"""What pefttune never writes: layers copied any number of times, a pattern, a module to import, bare parameters."""
RANKS = ("r", "init_r", "target_r", "num_virtual_tokens", "rank_pattern")
ALPHAS = ("lora_alpha", "alpha_pattern")
OF_LORA: dict[str, Any] = {
    "r": int,
    "lora_alpha": int | float,
    "alpha_pattern": dict,
    "use_rslora": bool,
    "use_dora": bool,
    "modules_to_save": list | None,
}
"""What stands in the configuration of a LoRA under these keys, if they are there."""


def read(folder: Path, sha256: str | None = None) -> dict[str, Any]:
    """The configuration. Raises AdapterError for one that is damaged, has not the digest given, or would have who reads
    it run a pattern, import a module or allocate without measure."""
    path = folder / CONFIG
    config = read_json(path, MAX_BYTES, sha256)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterError(f"{path} is damaged: peft_type missing or of the wrong kind")
    if faults := list(islice(_dangers(config), MOST_TOLD)):
        raise AdapterError(f"{path} is refused: {'; '.join(faults)}")
    kinds = OF_LORA if config["peft_type"] == "LORA" else {}
    if wrong := [key for key, kind in kinds.items() if key in config and not isinstance(config[key], kind)]:
        raise AdapterError(f"{path} is damaged: {', '.join(wrong)} of the wrong kind")
    if kinds and config.get("r", 1) < 1:
        raise AdapterError(f"{path} is refused: r is {config['r']}, which is no rank")
    return config


def _dangers(config: Mapping[str, Any]) -> Iterator[str]:
    for key in NAMES:
        if (names := config.get(key)) not in (None, NOWHERE) and not _are_names(names):
            yield f"{key} has to be a list of names, and not a pattern, which PEFT would run: {shown(names)}"
    for key in BY_NAME:
        names = config.get(key) or {}
        if not isinstance(names, dict) or not all(map(_is_name, names)):
            yield f"{key} has to name modules, and no patterns, which PEFT would run: {shown(names)}"
    for key, value in config.items():
        if value and (key in NEVER or key.endswith("_config")):
            yield f"pefttune writes no {shown(key)}: {shown(value)}"
    if config.get("megatron_core") not in (None, "megatron.core"):  # PEFT's default, which acts with its _config only
        yield f"megatron_core names a module to import: {shown(config['megatron_core'])}"
    if (layers := config.get("layers_to_transform")) is not None and not _are_indices(layers):
        yield f"layers_to_transform has to be a list of layers: {shown(layers)}"
    yield from _numbers(config, RANKS, 2 * LARGEST_RANK)
    yield from _numbers(config, ALPHAS, 2 * LARGEST_ALPHA)
    members = config.get("members") or {}
    for member in members.values() if isinstance(members, dict) else ():
        if isinstance(member, dict):
            yield from _dangers(member)


def _numbers(config: Mapping[str, Any], keys: tuple[str, ...], most: float) -> Iterator[str]:
    for key in keys:
        if (value := config.get(key)) is None:
            continue
        for number in value.values() if isinstance(value, dict) else [value]:
            if not _is_number(number, most):
                yield f"{key} is {shown(number)}, and has to be a number from 0 to {most:,}"


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _are_indices(value: Any) -> bool:
    return isinstance(value, list) and all(type(index) is int for index in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None
