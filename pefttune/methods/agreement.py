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

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from pefttune.errors import AdapterError
from pefttune.methods.configuration import NAME, read
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
    {"base_model_name_or_path", "revision", "peft_version", "total_step", "tinit", "tfinal", "deltaT"}
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
HEADS = ("score", "classifier", "qa_outputs")
"""What transformers' classes for tasks call their head."""
LOW_RANK = ("lora_A.weight", "lora_B.weight")
TENSORS: dict[str, tuple[str, ...]] = {
    "lora": LOW_RANK,
    "dora": (*LOW_RANK, "lora_magnitude_vector.weight"),
    "adalora": ("lora_A", "lora_B", "lora_E"),
    "ia3": ("ia3_l",),
    "oft": ("oft_R.weight",),
    "boft": ("boft_R", "boft_s"),
    "vera": ("vera_lambda_b", "vera_lambda_d"),
    "miss": ("miss_block",),
    "ln_tuning": ("ln_tuning_layers.weight",),
    "trainable_tokens": ("trainable_tokens_delta",),
    "head": (),
}
"""What PEFT reads for each module that a method adapts, by the end of its key."""
IF_THERE = {"ln_tuning": ("ln_tuning_layers.bias",)}
"""What it reads of some modules besides."""
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
        ours = {key: value for key, value in ours.items() if key in found} | {"peft_type": found["peft_type"]}
    _refuse(folder, _differences(found, ours, OF_WRITING))


def check_alone(folder: Path, section: Any, head: Mapping[str, Any] | None, sha256: str | None = None) -> None:
    """Raise AdapterError where plain PEFT would make of the folder another adapter than that of the recipe's section,
    with the head that the manifest tells of, as far as that shows without the base. That PEFT attaches to more modules
    than there are weights for does not count: there they begin without effect.

    What shows on the base alone is found when it is loaded: whether its modules are called so and as wide, which tokens
    `token_indices` are, and into how many layers and heads a prefix is split.
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
    """In what the configuration is not ours, as it is saved."""
    ours = {**_as_json(ours), "inference_mode": True}
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
    own = [f"{prefix}{name}.{end}" for name in HEADS for end in ("weight", "bias")]
    of_head = {key.removeprefix(prefix): held[key] for key in own if key in held}
    yield from _of_the_head(found, head, of_head)
    others = {key: shape for key, shape in held.items() if key not in own}
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
        if saved or held:
            yield f"modules_to_save is {shown(saved)}, and the adapter has no head"
    elif len(saved) != 1 or not _is_head(saved[0], outputs, held):
        yield f"modules_to_save is {shown(saved)}, and the adapter has one head, of {outputs} outputs"


def _is_head(name: str, outputs: int, held: Shapes) -> bool:
    weight, bias = held.get(f"{name}.weight", ()), held.get(f"{name}.bias", (outputs,))
    only = held.keys() <= {f"{name}.weight", f"{name}.bias"}
    return only and len(weight) == 2 and weight[0] == outputs and bias == (outputs,)


def _of_virtual_tokens(found: Mapping[str, Any], section: Any, held: Shapes) -> Iterator[str]:
    width = found.get("token_dim")
    if isinstance(section, sections.PrefixTuning) and isinstance(width, int) and isinstance(found["num_layers"], int):
        width *= 2 * found["num_layers"]  # keys and values
    if held != {KEY: (section.num_virtual_tokens, width)}:
        yield f"token_dim and num_layers make {KEY} {section.num_virtual_tokens} by {shown(width)}, and its weights not"


def _of_modules(found: Mapping[str, Any], section: Any, held: Shapes) -> Iterator[str]:
    ends = (*TENSORS[section.method], *IF_THERE.get(section.method, ()))
    places = {key: _place_of(key, ends) for key in held}
    modules: dict[str, dict[str, tuple[int, ...]]] = {place[0]: {} for place in places.values() if place}
    for key, place in places.items():
        if place is None:
            yield f"PEFT would pass over {shown(key)}"
        else:
            modules[place[0]][place[1]] = held[key]
    if broken := [told for path, own in modules.items() if (told := _broken(section.method, path, own))]:
        yield from broken
        return
    for path in sorted(modules.keys() - set(_reached(found, modules))):
        yield f"its targets leave out {shown(path)}, so that PEFT would pass over its weights"
    if isinstance(section, sections.Lora):
        yield from _of_scales(found, section.stored(), {path: own[LOW_RANK[0]][0] for path, own in modules.items()})


def _place_of(key: str, ends: Iterable[str]) -> tuple[str, str] | None:
    """The path of a tensor's module and what it is there; None where PEFT reads no such tensor."""
    for end in ends:
        path = key.removeprefix(FILE_PREFIX).removesuffix(f".{end}")
        if key == f"{FILE_PREFIX}{path}.{end}" and NAME.fullmatch(path):
            return path, end
    return None


def _broken(method: str, path: str, own: Shapes) -> str | None:
    """What of a module's tensors is not there, or does not fit together."""
    if lost := [end for end in TENSORS[method] if end not in own]:
        return f"{path} has no {lost[0]}"
    a, b = (own.get(end, (1, 1)) for end in LOW_RANK)
    return None if len(a) == len(b) == 2 and a[0] == b[1] > 0 else f"{path} has no A and B of one rank"


def _reached(found: Mapping[str, Any], paths: Iterable[str]) -> Iterator[str]:
    """Of these modules those to which PEFT attaches an adapter with that configuration
    (`peft.tuners.tuners_utils.check_target_module_exists`, whose time grows with modules times targets)."""
    targets, excluded = (
        set(names) if isinstance(names := found.get(key), list) else set()
        for key in ("target_modules", "exclude_modules")
    )
    layers, saved = found.get("layers_to_transform"), set(found.get("modules_to_save") or ())
    for path in paths:
        parts = path.split(".")
        ends = {".".join(parts[first:]) for first in range(len(parts))}
        if ends & excluded or not ends & targets or saved & set(parts):
            continue
        # A whole path reaches its module in whatever layer; else the first number behind two names is the layer's.
        number = next((part for part in parts[2:-1] if part.isdecimal()), None)
        if path in targets or not layers or (number is not None and int(number) in layers):
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
            yield f"{path} has rank {r}, and its weights {rank}"
        elif alpha / (math.sqrt(r) if found["use_rslora"] else r) != scale_of(section, module_of(path, section), r):
            yield f"{path} has lora_alpha {alpha}, and by the recipe another"


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
