"""A model's folder once more, with some of its weights changed; one tensor at a time is in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from pefttune.bases.load import load_tokenizer
from pefttune.bases.locate import MAX_INDEX_BYTES
from pefttune.bases.safety import read_json
from pefttune.errors import BaseError

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
OF_THE_MACHINE = ("_name_or_path", "_model_name_or_path")
"""Keys of a config that say where it was read from."""


def rewrite(folder: Path, to: Path, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
    """Write the model of `folder` into the folder `to`, in the same files and dtypes, and its tokenizer. Each tensor
    that is named in `changes` becomes what its function makes of it; every other byte of the weights stays.

    Raises BaseError where a tensor is not in the files, has another shape there, or its dtype cannot hold the change.
    """
    shards = _shards(folder)
    homes = {name: shard for shard in shards for name in _places(shard)}
    if lacking := sorted(changes.keys() - homes.keys()):
        raise BaseError(
            f"{folder}: its files have no tensor {lacking[0]}, but call that weight otherwise than transformers' model "
            "does; save the base anew with save_pretrained, and train on that folder"
        )
    for shard in shards:
        shutil.copyfile(shard, to / shard.name)
        _change(shard, to / shard.name, {name: change for name, change in changes.items() if homes[name] == shard})
    if (folder / INDEX).is_file():
        shutil.copyfile(folder / INDEX, to / INDEX)
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            content = _portable(read_json(folder / name))
            (to / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    load_tokenizer(folder).save_pretrained(to)


def _shards(folder: Path) -> list[Path]:
    """The files that transformers reads."""
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted({*read_json(folder / INDEX, MAX_INDEX_BYTES)["weight_map"].values()})]
    return [folder / WHOLE]


def _places(shard: Path) -> dict[str, int]:
    """Where each tensor of a safetensors file begins."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


@torch.no_grad()
def _change(shard: Path, copy: Path, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
    places = _places(shard)
    with safe_open(shard, framework="pt") as tensors, copy.open("r+b") as file:
        for name, change in changes.items():
            stored = tensors.get_tensor(name)
            _write(file, places[name], name, stored, change(stored).to(stored.dtype))


def _write(file: BinaryIO, place: int, name: str, stored: Tensor, changed: Tensor) -> None:
    if changed.shape != stored.shape:
        raise BaseError(f"{name} is {list(stored.shape)} in the base's files, but {list(changed.shape)} in its model")
    if not torch.isfinite(changed).all():
        raise BaseError(f"{name}: with the adapter in it, {stored.dtype} cannot hold its numbers")
    file.seek(place)
    file.write(changed.contiguous().view(torch.uint8).numpy().data)


def _portable(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _portable(value) for key, value in config.items() if key not in OF_THE_MACHINE}
    return config
