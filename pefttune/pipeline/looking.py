"""What a stored adapter's weights are, from its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pefttune.pipeline.parents import read_parent
from pefttune.recipe.adapters import Lora

T = TypeVar("T")


@dataclass(frozen=True)
class Module:
    """What a LoRA adds to the weight of a module: its rank, its factor, the spectral and the Frobenius norm of it."""

    r: int
    scale: float
    spectral: float
    frobenius: float


@dataclass(frozen=True)
class Weights:
    """The tensors of an adapter's file, the numbers in them and their dtypes; of a LoRA also the modules that it
    changes, by path. `refused` says why there are none of another method."""

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    modules: dict[str, Module]
    refused: str | None = None


def look(name: str, store_folder: Path | str = "adapters") -> Weights:
    """The weights of a stored adapter, read strictly. Raises AdapterError."""
    adapter = read_parent(Path(store_folder), name)

    from pefttune import methods

    sha256 = adapter.manifest["files"][methods.weights.WEIGHTS]
    state = methods.weights.read_any(adapter.folder, sha256)
    modules: dict[str, Module] = {}
    section, refused = adapter.recipe.adapter.stored(), None
    if isinstance(section, Lora):
        updates = methods.parts_of(state, section, adapter.folder / methods.weights.WEIGHTS).updates
        for key, update in updates.items():
            a, _, scale = update
            modules[key.removeprefix(methods.FILE_PREFIX)] = Module(len(a), scale, *methods.norms(update))
    else:
        refused = f"{adapter.called} is a {section.method}: ranks and norms are those of what a lora adds to weights"
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    return Weights(len(state), sum(each.numel() for each in state.values()), tuple(dtypes), modules, refused)


def by_layer(modules: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """What is told of modules by the layer that they are in, which is the path up to the first number; a module outside
    of all layers stands for itself."""
    layers: dict[str, dict[str, T]] = {}
    for module, told in modules.items():
        layers.setdefault(_layer(module.split(".")), {})[module] = told
    return layers


def _layer(path: list[str]) -> str:
    number = next((i for i, part in enumerate(path) if part.isdigit()), len(path))
    return ".".join(path[: number + 1])
