"""An adapter folder that plain PEFT wrote, or a trainer on top of it: read strictly, and judged before a base is there.

Which modules it changes is what its tensors say. Only its weights and its configuration are opened; never a pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.methods import weights
from pefttune.methods.foreign_config import ForeignConfig, read_config
from pefttune.methods.places import FILE_PREFIX, layer_of
from pefttune.store import MANIFEST
from pefttune.store.strict_json import shown

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
END_A, END_B = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = ".lora_magnitude_vector"  # of DoRA; in PEFT's files so, or with `.weight` behind it
NOT_OF_A_HEAD = ("lora_", ".base_layer.", ".original_module.")
"""What names of tensors hold that stand for something else than an update of a linear layer or a head."""


@dataclass(frozen=True)
class Foreign:
    """An adapter folder. `ranks` are by module, by path as in transformers' class; `others` the names of all tensors
    that are no part of an update: a head's. `notes` are sentences on what was left aside."""

    folder: Path
    sha256: str
    config: ForeignConfig
    ranks: dict[str, int]
    others: tuple[str, ...]
    notes: tuple[str, ...]


def read_foreign(folder: Path) -> Foreign:
    """What is in the folder, all but the numbers. Raises AdapterError for what cannot be read, is no LoRA or DoRA in
    safetensors, is not whole, or asks for what has no meaning here."""
    try:
        return _read(folder)
    except OSError as error:
        raise AdapterError(f"{error.filename or folder} cannot be read: {error.strerror}") from None


def _read(folder: Path) -> Foreign:
    _check_files(folder)
    config = read_config(folder / weights.CONFIG)
    names = {_without_prefix(folder, key): shape for key, shape in weights.shapes(folder).items()}
    ranks = {name.removesuffix(END_A): shape[0] for name, shape in names.items() if name.endswith(END_A) and shape}
    if not ranks:
        raise AdapterError(f"{folder / weights.WEIGHTS} holds no update of a linear layer: no tensor ends in {END_A}")
    for module, r in ranks.items():
        config.check_names(module)
        if r != (told := config.r_of(module)):
            raise AdapterError(f"{config.path} gives {shown(module)} rank {told}, and its tensors have {r}")
    others = tuple(_others(folder, names, config))
    config.check_saved(others)
    notes = (*_unread(folder), *config.notes(list(ranks)))
    return Foreign(folder, _sha256(folder / weights.WEIGHTS), config, ranks, others, notes)


def read_into(foreign: Foreign, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its tensors in float32 by our keys, exactly those of `expected`, all finite. Raises AdapterError."""
    keys = weights.shapes(foreign.folder).keys()
    theirs = {key: _their_key(key, keys) for key in expected}
    state = weights.read(foreign.folder, {theirs[key]: tensor for key, tensor in expected.items()}, foreign.sha256)
    return {key: state[theirs[key]] for key in expected}


def section_of(foreign: Foreign, linears: Collection[str], prefix: str) -> dict[str, Any]:
    """The recipe's `adapter` section that adapts just these modules of a base with these linear layers; `prefix` stands
    before their names in files. Raises AdapterError for a module that the base has not."""
    config, ranks = foreign.config, {}
    config.check_targets(foreign.ranks, [prefix + each for each in linears])
    for name, r in foreign.ranks.items():
        own = name.removeprefix(prefix)
        if own not in linears or not name.startswith(prefix):
            raise AdapterError(
                f"{foreign.folder} adapts {shown(name)}, and the recipe's base has no such linear layer below its "
                f"output layer, but {', '.join(prefix + each for each in list(linears)[:3])} …"
            )
        ranks[own] = r
    targets, layers = _places(ranks, linears)
    others = {name: r for name, r in ranks.items() if r != config.r}
    alphas = {name: config.alpha_of(prefix + name) for name in ranks}
    alphas = {name: alpha for name, alpha in alphas.items() if name in others or alpha != config.alpha}
    section: dict[str, Any] = {
        "method": "dora" if config.dora else "lora",
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": targets,
        "layers": layers,
    }
    if not config.dora:
        return {**section, "rank_pattern": others, "alpha_pattern": alphas}
    if alphas:  # those of other ranks are among them
        raise AdapterError(
            f"{foreign.folder} is a DoRA with an r or lora_alpha of {shown(next(iter(alphas)))} alone; a dora here has "
            "one for all modules"
        )
    return section


def _places(modules: Collection[str], linears: Collection[str]) -> tuple[list[str], list[int] | None]:
    """Names that are those of just these modules, in these layers, None for all."""
    kinds, used = {name.rpartition(".")[2] for name in modules}, {layer_of(name) for name in modules}
    alike = [name for name in linears if name.rpartition(".")[2] in kinds]
    within = [name for name in alike if layer_of(name) in used]
    if len(within) > len(modules):  # not the same in each layer, so every one is named
        return sorted(modules), None
    return sorted(kinds), sorted(used) if len(within) < len(alike) else None


def _check_files(folder: Path) -> None:
    """Raise AdapterError unless there are weights in safetensors and a configuration, and no manifest of our own."""
    if not folder.is_dir():
        raise AdapterError(f"{folder} is no folder: name one with {weights.CONFIG} and {weights.WEIGHTS}")
    names = {path.name for path in folder.iterdir()}
    if MANIFEST in names:
        raise AdapterError(
            f"{folder} holds {MANIFEST}: it is an adapter of pefttune's own; copy the folder to adapters/NAME/1, and "
            "`pefttune verify NAME` proves it"
        )
    if weights.WEIGHTS not in names:
        raise AdapterError(f"{folder} holds no {weights.WEIGHTS}{_instead(names)}")
    if weights.CONFIG not in names:
        raise AdapterError(f"{folder} holds no {weights.CONFIG}, which says how its weights are scaled")


def _instead(names: set[str]) -> str:
    """What there is in the place of weights, and what to do with it."""
    if pickles := sorted(name for name in names if Path(name).suffix in PICKLES):
        return (
            f", but {', '.join(map(shown, pickles))}: a pickle runs code when it is read, and is never opened here. "
            "Where it was made, save it again with PEFT: model.save_pretrained(folder, safe_serialization=True)"
        )
    if checkpoints := sorted(name for name in names if name.startswith("checkpoint-")):
        return f"; name one of the checkpoints in it, such as {shown(checkpoints[-1])}"
    return ""


def _without_prefix(folder: Path, key: str) -> str:
    if not key.startswith(FILE_PREFIX):
        raise AdapterError(
            f"{folder / weights.WEIGHTS}: {shown(key)} does not begin with {FILE_PREFIX}, as PEFT's files do; where it "
            "was made, save it with PEFT's model.save_pretrained(folder)"
        )
    return key.removeprefix(FILE_PREFIX)


def _others(folder: Path, names: Collection[str], config: ForeignConfig) -> Iterator[str]:
    """The tensors that are no part of an update. Raises AdapterError for one that belongs to something else."""
    for name in names:
        magnitude = name.removesuffix(".weight").endswith(MAGNITUDE)
        if magnitude and not config.dora:
            raise AdapterError(
                f"{folder / weights.WEIGHTS} has {shown(name)}, and use_dora is not set in {config.path}"
            )
        if magnitude or name.endswith((END_A, END_B)):
            continue
        if any(part in name for part in NOT_OF_A_HEAD):
            raise AdapterError(
                f"{folder / weights.WEIGHTS}: {shown(name)} is none of the tensors that a LoRA of linear layers has"
            )
        yield name


def _unread(folder: Path) -> Iterator[str]:
    unread = sorted(path.name for path in folder.iterdir() if path.name not in (weights.WEIGHTS, weights.CONFIG))
    pickles = [name for name in unread if Path(name).suffix in PICKLES]
    if unread:
        yield f"not read: {', '.join(map(shown, unread))}"
    if pickles:
        yield f"never opened, for a pickle runs code: {', '.join(map(shown, pickles))}"


def _their_key(key: str, theirs: Collection[str]) -> str:
    short = key.removesuffix(".weight")
    return short if key not in theirs and short.endswith(MAGNITUDE) else key


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
