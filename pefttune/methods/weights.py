"""Read and write the files of an adapter: PEFT's layout, strictly checked, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.methods.tensor_file import TensorFile
from pefttune.store.strict_json import shown

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LOW_RANK = (".lora_A.weight", ".lora_B.weight")
"""How the keys of both halves of an update end."""
MOST_TOLD = 5


def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {key: parameter.detach().cpu().clone() for key, parameter in parameters.items()}


@torch.no_grad()
def fill(parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Write tensors that were checked against the parameters into these."""
    for key, parameter in parameters.items():
        parameter.copy_(state[key])


def write(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], base_id: str, revision: str | None
) -> None:
    """Write weights and configuration as PEFT reads them. `base_id` is a Hub id or a bare name, never a path."""
    path = folder / WEIGHTS
    try:
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its word for a full disk, too
        raise OSError(f"{path.name}: {error}") from None
    path.chmod(0o644)  # safetensors keeps others out; an adapter is as readable as any file
    content = {
        **config,
        "base_model_name_or_path": base_id,
        "revision": revision,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the adapter's tensors, by key, without reading them. Raises AdapterError."""
    with _opened(folder) as file:
        return {key: place.shape for key, place in file.places.items()}


def low_rank_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """`shapes`, where both halves of every update are matrices with numbers in them. Raises AdapterError."""
    found = shapes(folder)
    for key, shape in found.items():
        if key.endswith(LOW_RANK) and (len(shape) != 2 or not all(shape)):
            raise AdapterError(f"{folder / WEIGHTS}: {shown(key)} has shape {list(shape)}, and is no half of an update")
    return found


def read(folder: Path, expected: Mapping[str, Tensor], sha256: str | None = None) -> dict[str, Tensor]:
    """The adapter's tensors in float32, exactly those of `expected` (key, shape), all finite.

    An extra key could overwrite the shared base, a missing one leaves a layer untrained: either is refused before
    anything is allocated or touched. Raises AdapterError with every fault, also when the bytes that were read have not
    the digest given.
    """
    path = folder / WEIGHTS
    with _opened(folder) as file:
        wanted = {key: tuple(tensor.shape) for key, tensor in expected.items()}
        if faults := _faults({key: place.shape for key, place in file.places.items()}, wanted):
            raise AdapterError(f"{path} does not fit the adapter it is to fill:\n  " + "\n  ".join(faults))
        state = _finite(path, file.tensors(sha256))
    return {key: tensor.float() for key, tensor in state.items()}


def read_any(folder: Path, sha256: str) -> dict[str, Tensor]:
    """The adapter's tensors in their own dtypes, whatever they are, all finite. Raises AdapterError, also when the file
    has not that digest."""
    with _opened(folder) as file:
        return _finite(folder / WEIGHTS, file.tensors(sha256))


def check(folder: Path, sha256: str) -> None:
    """Read the adapter's tensors as strictly as `read` does, where there is no base that they have to fit, and a piece
    at a time. Raises AdapterError."""
    with _opened(folder) as file:
        file.check(sha256)


def _finite(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path}: {shown(key)} holds NaN or infinite values")
    return state


@contextmanager
def _opened(folder: Path) -> Iterator[TensorFile]:
    path = folder / WEIGHTS
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for somebody to write it
            raise AdapterError(f"{path} cannot be read: it is no file")
        with path.open("rb") as opened:
            yield TensorFile(path, opened)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from None


def _faults(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    wrong = (key for key in sorted(found.keys() & expected.keys()) if found[key] != expected[key])
    return [
        *(
            f"{shown(key)} is not a tensor of this adapter"
            for key in sorted(found.keys() - expected.keys())[:MOST_TOLD]
        ),
        *(f"{key} is missing" for key in sorted(expected.keys() - found.keys())[:MOST_TOLD]),
        *(
            f"{key} has shape {list(found[key])}, but the base needs {list(expected[key])}"
            for key in islice(wrong, MOST_TOLD)
        ),
    ]
