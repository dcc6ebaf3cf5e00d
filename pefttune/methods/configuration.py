"""`adapter_config.json`, read strictly: pefttune attaches by the recipe, but others who load the folder believe this
file, and would run what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from peft.utils.constants import DUMMY_TARGET_MODULES

from pefttune.errors import AdapterError
from pefttune.methods.weights import CONFIG
from pefttune.recipe.adapters import LARGEST_ALPHA, LARGEST_RANK
from pefttune.store.strict_json import parse, read_json, shown

MAX_BYTES = 1 << 20
MOST_TOLD = 5
NAME = re.compile(r"[\w.-]{1,256}")
"""A module's path. PEFT runs the keys of `rank_pattern` and others as patterns; of these letters none takes long."""
NAMES = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules")
BY_NAME = ("rank_pattern", "alpha_pattern")
NOWHERE = DUMMY_TARGET_MODULES
"""PEFT's word for no module at all."""
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
OF_WRITING = frozenset(
    {
        *("base_model_name_or_path", "revision", "inference_mode", "peft_version"),
        *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
        *("total_step", "tinit", "tfinal", "deltaT"),
    }
)
"""What says by whom and how the adapter was made, and not what it computes."""


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


def check_same(folder: Path, ours: Mapping[str, Any]) -> None:
    """Raise AdapterError where the configuration says something else than that of the adapter as it was attached: then
    PEFT would compute something else than pefttune. Keys that only another version of PEFT has do not count."""
    found = read(folder)
    if (found["peft_type"], ours["peft_type"]) == ("P_TUNING", "PROMPT_TUNING"):  # what its network made is kept alone
        ours = {**ours, "peft_type": found["peft_type"]}
    ours = parse(json.dumps(ours, default=sorted))  # a set as a list, a word of PEFT's as its letters
    compared = sorted(found.keys() & ours.keys() - OF_WRITING)
    wrong = [key for key in compared if _ordered(found[key]) != _ordered(ours[key])]
    if wrong:
        told = "; ".join(
            f"{key} is {shown(found[key])}, and the adapter's {shown(ours[key])}" for key in wrong[:MOST_TOLD]
        )
        raise AdapterError(f"{folder / CONFIG} describes another adapter than the manifest: {told}")


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
    yield from _numbers(config, RANKS, 2 * LARGEST_RANK)
    yield from _numbers(config, ALPHAS, 2 * LARGEST_ALPHA)
    members = config.get("members") or {}
    for member in members.values() if isinstance(members, dict) else ():
        if isinstance(member, dict):
            yield from _dangers(member)


def _numbers(config: Mapping[str, Any], keys: tuple[str, ...], most: float) -> Iterator[str]:
    for key in keys:
        value = config.get(key)
        for number in value.values() if isinstance(value, dict) else [value]:
            if number is not None and not _is_number(number, most):
                yield f"{key} is {shown(number)}, and has to be a number from 0 to {most:,}"


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _ordered(value: Any) -> Any:
    """Lists in one order: they are of modules, and PEFT has them as sets."""
    if isinstance(value, list):
        return sorted(map(_ordered, value), key=repr)
    return {key: _ordered(inner) for key, inner in value.items()} if isinstance(value, dict) else value
