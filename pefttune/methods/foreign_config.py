"""`adapter_config.json` of a LoRA that others trained, read strictly: what it sets, and what has no meaning here, which
is refused by its key. No pattern in it is ever run, for one can be made to take for ever."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pefttune.errors import AdapterError
from pefttune.methods.places import is_called
from pefttune.recipe.adapters import LARGEST_ALPHA, LARGEST_RANK
from pefttune.store.strict_json import read_json, shown

T = TypeVar("T")

MAX_BYTES = 1 << 20
MOST_TOLD = 5
USUAL = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False}
"""PEFT's own defaults."""
READ = {
    *USUAL,
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "rank_pattern",
    "target_modules",
}
"""Keys that are looked at here."""
OF_NO_ACCOUNT = {
    "auto_mapping",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
"""Keys that say how it began, how it is run, or where it goes, which its tensors say."""
OFF: tuple[Any, ...] = (None, False, "", "none", [], {})
"""Values of any other key that ask for nothing."""
BEGINS_AS_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` with which a training leaves the base as it is."""
EITHER = frozenset({"classifier", "score"})
"""What PEFT writes for every classifier as `modules_to_save`: one is the model's head, the other is in no model's."""
PLAIN = re.compile(r"\^?[\w.-]+")


@dataclass(frozen=True)
class ForeignConfig:
    """What the file sets. Patterns are of plain names."""

    path: Path
    r: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: Any
    exclude_modules: Any
    modules_to_save: tuple[str, ...]
    base: str | None
    peft_version: str | None

    def r_of(self, module: str) -> int:
        """The rank that PEFT gives a module."""
        return _first(self.rank_pattern, module, self.r)

    def alpha_of(self, module: str) -> float:
        """The `lora_alpha` that PEFT gives a module."""
        return _first(self.alpha_pattern, module, self.alpha)

    def check_names(self, module: str) -> None:
        """Raise AdapterError where PEFT would leave aside the tensors of a module, as far as names alone tell."""
        if isinstance(self.target_modules, list) and not _is_named(self.target_modules, module):
            raise AdapterError(f"{self.path}: target_modules does not name {shown(module)}, which has tensors")
        if isinstance(self.exclude_modules, list) and _is_named(self.exclude_modules, module):
            raise AdapterError(f"{self.path}: exclude_modules names {shown(module)}, which has tensors")

    def check_targets(self, modules: Collection[str], linears: Collection[str]) -> None:
        """Raise AdapterError where the file names linear layers of the base, all of them given, of which none has
        tensors, as `modules` have: then a part of the adapter is missing. Names that the base has not are no matter:
        people list those of several kinds of bases."""
        targets = self.target_modules if isinstance(self.target_modules, list) else []
        excluded = self.exclude_modules if isinstance(self.exclude_modules, list) else []
        there = [module for module in linears if not _is_named(excluded, module)]
        if lost := [name for name in targets if not _is_one_called(name, modules) and _is_one_called(name, there)]:
            raise AdapterError(f"{self.path}: target_modules names {_listed(lost)}, which has no tensors")

    def check_saved(self, others: Collection[str]) -> None:
        """Raise AdapterError where the file names modules saved whole that have no tensors among the `others`, by key:
        then a part of the adapter is missing."""
        saved = {name for name in self.modules_to_save if any(_is_inside(name, key) for key in others)}
        either = EITHER if saved & EITHER else frozenset()
        if lost := [name for name in self.modules_to_save if name not in saved | either]:
            raise AdapterError(f"{self.path}: modules_to_save names {_listed(lost)}, which has no tensors")

    def notes(self, modules: Sequence[str]) -> list[str]:
        """What of it was left aside, in sentences; `modules` are those that have tensors."""
        found = [
            f"{key} is a pattern, which was not run: the modules are the {len(modules)} that have tensors"
            for key, value in (("target_modules", self.target_modules), ("exclude_modules", self.exclude_modules))
            if isinstance(value, str) and value != "all-linear"
        ]
        for key, pattern in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            idle = [name for name in pattern if not any(fits(name, module) for module in modules)]
            found += [f"{key} names {shown(name)}, which is none of its modules" for name in idle]
        return found


def read_config(path: Path) -> ForeignConfig:
    """The configuration in the file. Raises AdapterError, with the key, for what has no meaning here."""
    config = {**USUAL, **_read(path)}
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path}: peft_type is {shown(kind)}; what can be taken in is LORA, of which DoRA is one")
    if not _is_whole(config["r"], LARGEST_RANK):
        raise AdapterError(f"{path}: r is {shown(config['r'])}, not a whole number from 1 to {LARGEST_RANK}")
    for key, most in (("lora_alpha", LARGEST_ALPHA), ("lora_dropout", 0.99)):
        if not _is_number(config[key], most):
            raise AdapterError(f"{path}: {key} is {shown(config[key])}, not a number from 0 to {most}")
    for key in ("use_rslora", "use_dora"):
        if not isinstance(config[key], bool):
            raise AdapterError(f"{path}: {key} is {shown(config[key])}, neither true nor false")
    _check_meaning(path, config)
    return ForeignConfig(
        path=path,
        r=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        rslora=config["use_rslora"],
        dora=config["use_dora"],
        rank_pattern=_pattern(path, "rank_pattern", config),
        alpha_pattern=_pattern(path, "alpha_pattern", config),
        target_modules=config.get("target_modules"),
        exclude_modules=config.get("exclude_modules"),
        modules_to_save=_saved(path, config.get("modules_to_save")),
        base=_text(config.get("base_model_name_or_path")),
        peft_version=_text(config.get("peft_version")),
    )


def fits(pattern: str, module: str) -> bool:
    """Whether PEFT's `(.*\\.)?(pattern)$` matches the path of a module; a point in it stands for any character."""
    whole = pattern.removeprefix("^")
    before, tail = module[: max(0, len(module) - len(whole))], module[-len(whole) :]
    begins = not before or (before.endswith(".") and whole == pattern)
    return begins and len(tail) == len(whole) and all(a in (".", b) for a, b in zip(whole, tail, strict=True))


def _first(pattern: Mapping[str, T], module: str, usual: T) -> T:
    return next((value for name, value in pattern.items() if fits(name, module)), usual)


def _is_named(names: list[Any], module: str) -> bool:
    return any(isinstance(name, str) and is_called(module, name) for name in names)


def _is_one_called(name: Any, modules: Collection[str]) -> bool:
    return isinstance(name, str) and any(is_called(module, name) for module in modules)


def _is_inside(name: str, key: str) -> bool:
    """Whether a tensor is of a module, or one inside it, whose path ends so, as PEFT finds modules to save."""
    path = key.split(".")
    return any(".".join(path[:n]).endswith(name) for n in range(1, len(path)))


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(shown, names[:MOST_TOLD])) + (" …" if len(names) > MOST_TOLD else "")


def _saved(path: Path, names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise AdapterError(f"{path}: modules_to_save is {shown(names)}, no list of names")
    return tuple(names)


def _read(path: Path) -> dict[str, Any]:
    config = read_json(path, MAX_BYTES)
    if not isinstance(config, dict):
        raise AdapterError(f"{path} is damaged: it is no configuration of an adapter")
    return config


def _check_meaning(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("bias") not in OFF:
        raise AdapterError(
            f"{path}: bias is {shown(config['bias'])}: biases of the base were trained, and here none are"
        )
    begun = config.get("init_lora_weights", True)
    if begun not in BEGINS_AS_THE_BASE:
        raise AdapterError(
            f"{path}: init_lora_weights is {shown(begun)}, with which a training changes the base. Where it was made, "
            "convert it: model.save_pretrained(folder, path_initial_model_for_weight_conversion=…)"
        )
    for key, value in config.items():
        if key not in READ | OF_NO_ACCOUNT and value not in OFF:
            raise AdapterError(
                f"{path}: {shown(key)} is {shown(value)}; that is not known here and may change what is computed"
            )


def _pattern(path: Path, key: str, config: Mapping[str, Any]) -> dict[str, Any]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise AdapterError(f"{path}: {key} is {shown(pattern)}, no table of modules")
    for name, value in pattern.items():
        if not PLAIN.fullmatch(name):
            raise AdapterError(
                f"{path}: {key} has {shown(name)}, a pattern that would have to be run to find its modules; write "
                "their names, or the ends of these"
            )
        if not (_is_whole(value, LARGEST_RANK) if key == "rank_pattern" else _is_number(value, LARGEST_ALPHA)):
            raise AdapterError(f"{path}: {key} gives {shown(name)} {shown(value)}, which is none that can be")
    return pattern


def _is_whole(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_number(value: Any, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most


def _text(value: Any) -> str | None:
    return shown(value) if isinstance(value, str) and value else None
