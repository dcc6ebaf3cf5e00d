"""A safetensors file, read by ourselves and strictly: all of its header is checked before a byte of it becomes a
tensor (format: github.com/huggingface/safetensors, "Format").

The library takes a header of 100 MB, and opens the file by name once more for each use. Here the file is opened once,
so that what was checked is what is read, and nothing is allocated that the header's own bounds do not allow.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.store.strict_json import parse, shown

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Those that weights of an adapter have."""
METADATA = "__metadata__"
LENGTH_BYTES = 8
PIECE_BYTES = 16 << 20
"""Whole numbers of every dtype."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies behind the header, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """An open safetensors file whose header is sound; `places` are its tensors by name."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Raises AdapterError for a file that is not whole and exactly as the format says."""
        self._path, self._file = path, file
        size = file.seek(0, 2)
        file.seek(0)
        self._head = self._header_bytes(size)
        try:
            self.places = _places(parse(self._head[LENGTH_BYTES:].decode()), size - len(self._head))
        except ValueError as error:
            raise self._fault(f"its header is damaged: {error}") from None

    def tensors(self, sha256: str | None = None) -> dict[str, Tensor]:
        """All tensors, on the CPU. Raises AdapterError when the file has not that digest, or has become shorter."""
        data = bytearray(self._file.read())
        if sha256 is not None:
            digest = hashlib.sha256(self._head)
            digest.update(data)
            if digest.hexdigest() != sha256:
                raise self._fault("its sha256 is not the one it was saved with; it has been changed or damaged")
        if len(data) != max((place.end for place in self.places.values()), default=0):
            raise self._fault("it was changed while it was read")
        return {name: _tensor(data, place) for name, place in self.places.items()}

    def check(self, sha256: str) -> None:
        """Read all of it, a piece at a time. Raises AdapterError as `tensors` does, or where a number is not finite."""
        digest = hashlib.sha256(self._head)
        for name, place in sorted(self.places.items(), key=lambda item: item[1].start):
            for start in range(place.start, place.end, PIECE_BYTES):
                piece = bytearray(self._file.read(min(PIECE_BYTES, place.end - start)))
                if len(piece) % place.dtype.itemsize:
                    raise self._fault("it was changed while it was read")
                digest.update(piece)
                if piece and not torch.frombuffer(piece, dtype=place.dtype).isfinite().all():
                    raise self._fault(f"{shown(name)} holds NaN or infinite values")
        if digest.hexdigest() != sha256 or self._file.read(1):
            raise self._fault("its sha256 is not the one it was saved with; it has been changed or damaged")

    def _header_bytes(self, size: int) -> bytes:
        """The header, with its length before it."""
        length = int.from_bytes(self._file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
            raise self._fault("it is cut off, or no safetensors file")
        if length > MAX_HEADER_BYTES:
            raise self._fault(f"its header of {length:,} bytes is too large for an adapter")
        return length.to_bytes(LENGTH_BYTES, "little") + self._file.read(length)

    def _fault(self, what: str) -> AdapterError:
        return AdapterError(f"{self._path} cannot be read: {what}")


def _tensor(data: bytearray, place: Place) -> Tensor:
    if place.start == place.end:  # torch.frombuffer refuses to make nothing
        return torch.empty(place.shape, dtype=place.dtype)
    count = math.prod(place.shape)
    return torch.frombuffer(data, dtype=place.dtype, count=count, offset=place.start).view(place.shape)


def _places(header: Any, data_bytes: int) -> dict[str, Place]:
    """The tensors of a parsed header. Raises ValueError unless they fill the data, one after another."""
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")
    told = header.pop(METADATA, {})
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ValueError(f"{METADATA} is no table of texts")
    places = {name: _place(name, entry) for name, entry in header.items()}
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != end:
            raise ValueError(f"{shown(name)} does not begin where the tensor before it ends")
        end = place.end
    if end != data_bytes:
        raise ValueError(f"its tensors have {end:,} bytes, but {data_bytes:,} are there")
    return places


def _place(name: str, entry: Any) -> Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{shown(name)} has the dtype {shown(dtype)}; an adapter's are {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{shown(name)} has the shape {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{shown(name)} has the data_offsets {shown(offsets)}")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{shown(name)} has {offsets[1] - offsets[0]:,} bytes, which its shape and dtype do not need")
    return Place(DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
