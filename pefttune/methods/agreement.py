"""Whether `adapter_config.json` describes the adapter that the recipe and the weights make: pefttune attaches by those,
and plain PEFT by this file."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from itertools import islice
from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING

from pefttune.errors import AdapterError
from pefttune.methods.configuration import read
from pefttune.methods.lora import scale_of
from pefttune.methods.places import FILE_PREFIX
from pefttune.methods.prompts import KEY, VirtualTokens
from pefttune.methods.settings import SETTINGS, settings_of
from pefttune.methods.updates import module_of
from pefttune.methods.weights import CONFIG, shapes
from pefttune.recipe import adapters as sections
from pefttune.store.strict_json import parse, shown

MOST_TOLD = 5
OF_WRITING = frozenset(
    {
        *("base_model_name_or_path", "revision", "inference_mode", "peft_version"),
        *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
        *("total_step", "tinit", "tfinal", "deltaT"),
    }
)
"""What says by whom and how the adapter was made, and not what it computes."""
OF_THE_BASE = frozenset(
    {
        *("task_type", "modules_to_save", "target_modules", "exclude_modules", "feedforward_modules"),
        *("layers_to_transform", "token_indices", "token_dim", "num_layers", "num_attention_heads"),
    }
)
"""What the recipe alone does not decide."""
PATTERNS = frozenset({"rank_pattern", "alpha_pattern"})
WRITES = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
Shapes = Mapping[str, tuple[int, ...]]


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what PEFT takes where it leaves something out."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(config["peft_type"])
    usual = {each.name: _default(each) for each in fields(kind)} if kind else {}
    usual.pop("runtime_config", None)  # PEFT's, for a machine, and never in a file
    return {**_as_json(usual), **config}


def check_attached(folder: Path, ours: Mapping[str, Any]) -> None:
    """Raise AdapterError where the configuration says something else than that of the adapter as it was attached to its
    base. Keys that only another version of PEFT has do not count."""
    found = completed(read(folder))
    if (found["peft_type"], ours["peft_type"]) == ("P_TUNING", "PROMPT_TUNING"):  # what its network made is kept alone
        ours = {**ours, "peft_type": found["peft_type"]}
    _refuse(folder, _differences(found, ours, OF_WRITING))


def check_alone(folder: Path, section: Any, head: Mapping[str, Any] | None, sha256: str | None = None) -> None:
    """Raise AdapterError where plain PEFT would make of the folder another adapter than that of the recipe's section,
    with the head that the manifest tells of, as far as that shows without the base. That PEFT attaches to more modules
    than there are weights for does not count: there they begin without effect.

    On the base alone shows which tokens `token_indices` are, and into how many heads a prefix is split.
    """
    found = completed(read(folder, sha256))
    if section.method not in SETTINGS:
        if not section.in_peft and found["peft_type"] in PEFT_TYPE_TO_CONFIG_MAPPING:
            _refuse(folder, [f"peft_type is {shown(found['peft_type'])}, and PEFT has no {section.method}"])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of VeRA's matrices, which are drawn again from their seed
        ours = settings_of(section)().to_dict()
    if isinstance(section, sections.PTuning):
        ours["encoder_hidden_size"] = section.encoder_hidden_size or found.get("token_dim")
    passed = OF_WRITING | OF_THE_BASE | (PATTERNS if isinstance(section, sections.Lora) else frozenset())
    faults = list(_differences(found, ours, passed))
    _refuse(folder, faults or _of_the_weights(found, section, head, shapes(folder)))


def _refuse(folder: Path, faults: Iterable[str]) -> None:
    if told := list(islice(faults, MOST_TOLD)):
        raise AdapterError(f"{folder / CONFIG} describes another adapter than the manifest: {'; '.join(told)}")


def _differences(found: Mapping[str, Any], ours: Mapping[str, Any], passed: Collection[str]) -> Iterator[str]:
    """In what the configuration is not ours."""
    ours = _as_json(ours)
    for key in sorted(ours.keys() - passed):
        if key not in found:
            yield f"{key} is missing"
        elif _ordered(found[key]) != _ordered(ours[key]):
            yield f"{key} is {shown(found[key])}, and the adapter's {shown(ours[key])}"


def _of_the_weights(
    found: Mapping[str, Any], section: Any, head: Mapping[str, Any] | None, held: Shapes
) -> Iterator[str]:
    """What the configuration says otherwise than the shapes of the weights, or than the manifest of its head."""
    prefix = VirtualTokens.file_prefix if isinstance(section, sections.VirtualTokens) else FILE_PREFIX
    of_head = {
        key: shape
        for name in (found.get("modules_to_save") or [])[:1]  # there is one head at most
        for key, shape in held.items()
        if key in (f"{prefix}{name}.weight", f"{prefix}{name}.bias")
    }
    yield from _of_the_head(found, head, of_head)
    others = {key: shape for key, shape in held.items() if key not in of_head}
    if isinstance(section, sections.VirtualTokens):
        yield from _of_virtual_tokens(found, section, others)
    else:
        yield from _of_modules(found, section, others)


def _of_the_head(found: Mapping[str, Any], head: Mapping[str, Any] | None, held: Shapes) -> Iterator[str]:
    task, saved = found.get("task_type"), found.get("modules_to_save") or []
    if task not in (WRITES if head is None else (head["task_type"],)):
        yield f"task_type is {shown(task)}, and the adapter's {'to write' if head is None else head['task_type']}"
    outputs = None if head is None else head["outputs"]
    if outputs is None:
        if saved:
            yield f"modules_to_save is {shown(saved)}, and the adapter has no head"
    elif len(saved) != 1 or {shape[:1] for shape in held.values()} != {(outputs,)}:
        yield f"modules_to_save is {shown(saved)}, and the adapter has one head, of {outputs} outputs"


def _of_virtual_tokens(found: Mapping[str, Any], section: Any, held: Shapes) -> Iterator[str]:
    width = found.get("token_dim")
    if isinstance(section, sections.PrefixTuning) and isinstance(width, int) and isinstance(found["num_layers"], int):
        width *= 2 * found["num_layers"]  # keys and values
    if held != {KEY: (section.num_virtual_tokens, width)}:
        yield f"token_dim and num_layers make {KEY} {section.num_virtual_tokens} by {shown(width)}, and its weights not"


def _of_modules(found: Mapping[str, Any], section: Any, held: Shapes) -> Iterator[str]:
    stem = f".{PEFT_TYPE_TO_PREFIX_MAPPING[found['peft_type']]}"
    paths = {key: key.removeprefix(FILE_PREFIX).partition(stem)[0] for key in held}
    for key, path in paths.items():
        if not key.startswith(f"{FILE_PREFIX}{path}{stem}"):
            yield f"PEFT would pass over {shown(key)}"
    reached = set(_reached(found, set(paths.values())))
    for path in sorted(set(paths.values()) - reached):
        yield f"its targets leave out {shown(path)}, so that PEFT would pass over its weights"
    if isinstance(section, sections.Lora):
        ranks = {paths[key]: shape[0] for key, shape in held.items() if key.endswith(".lora_A.weight") and shape}
        yield from _of_scales(found, section.stored(), ranks)


def _reached(found: Mapping[str, Any], paths: Iterable[str]) -> Iterator[str]:
    """Of these modules those to which PEFT attaches an adapter with that configuration
    (`peft.tuners.tuners_utils.check_target_module_exists`, whose time grows with modules times targets)."""
    targets, excluded = (
        set(names) if isinstance(names := found.get(key), list) else set()
        for key in ("target_modules", "exclude_modules")
    )
    layers = found.get("layers_to_transform")
    for path in paths:
        parts = path.split(".")
        ends = {".".join(parts[first:]) for first in range(len(parts))}
        if ends & excluded or not ends & targets:
            continue
        # A whole path reaches its module in whatever layer; else the first number behind two names is the layer's.
        number = next((part for part in parts[2:-1] if part.isdecimal()), None)
        if path in targets or layers is None or (number is not None and int(number) in layers):
            yield path


def _of_scales(found: Mapping[str, Any], section: sections.Lora, ranks: Mapping[str, int]) -> Iterator[str]:
    """Modules that PEFT would scale otherwise than the recipe does. A pattern's keys are ends of paths to PEFT;
    here they have to be whole ones."""
    for key in sorted(PATTERNS):
        if strangers := sorted((found.get(key) or {}).keys() - ranks.keys()):
            yield f"{key} names {shown(strangers[0])}, which is none of the modules that there are weights for"
    for path, rank in ranks.items():
        r = (found.get("rank_pattern") or {}).get(path, found["r"])
        alpha = (found.get("alpha_pattern") or {}).get(path, found["lora_alpha"])
        if r != rank:
            yield f"{shown(path)} has rank {shown(r)}, and its weights {rank}"
        elif alpha / (math.sqrt(r) if found["use_rslora"] else r) != scale_of(section, module_of(path, section), r):
            yield f"{shown(path)} has lora_alpha {shown(alpha)}, and by the recipe another"


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _as_json(content: Mapping[str, Any]) -> Any:
    """A set as a list, a word of PEFT's as its letters."""
    return parse(json.dumps(content, default=sorted))


def _ordered(value: Any) -> Any:
    """Lists in one order: they are of modules, and PEFT has them as sets."""
    if isinstance(value, list):
        return sorted(map(_ordered, value), key=repr)
    return {key: _ordered(inner) for key, inner in value.items()} if isinstance(value, dict) else value
