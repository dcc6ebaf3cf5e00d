"""A safetensors file is read as the library reads it, or refused by a sentence: what the library refuses is refused
here, and nothing is ever allocated that the file does not hold."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.methods import tensor_file
from pefttune.methods.tensor_file import TensorFile

MOST_BYTES = 4 << 20
"""What a refusal may allocate; the files here have some hundred bytes."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("file") / "adapter_model.safetensors"


def read(path: Path, content: bytes, sha256: str | None = None) -> dict[str, Tensor]:
    path.write_bytes(content)
    with path.open("rb") as file:
        return TensorFile(path, file).tensors(sha256)


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(*shape: int, dtype: str = "F32", start: int = 0, end: int | None = None) -> dict[str, Any]:
    size = 4 * torch.Size(shape).numel()
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size if end is None else end]}


def is_as_the_library_says(path: Path, content: bytes) -> None:
    """Equal tensors, or AdapterError; where the library refuses, always AdapterError."""
    try:
        theirs = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError):
        theirs = None
    try:
        ours, told = read(path, content), ""
    except AdapterError as error:
        ours, told = None, str(error)
    assert len(told) < 2000
    assert told.isprintable()
    if ours is None:
        return
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert tensor.shape == theirs[name].shape
        assert (
            tensor.numpy(force=True).tobytes() == theirs[name].numpy(force=True).tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(tensor.view(torch.int16), theirs[name].view(torch.int16))
        )


dtypes = st.sampled_from(list(tensor_file.DTYPES.values()))
shapes = st.lists(st.integers(0, 4), max_size=3)
tensors = st.builds(lambda dtype, shape: torch.randn(shape).to(dtype), dtypes, shapes)
files = st.dictionaries(st.text(max_size=8), tensors, max_size=4).filter(lambda named: "__metadata__" not in named)


@settings(max_examples=2000, deadline=None)
@given(files)
def test_what_the_library_writes_is_read_to_the_bit(path: Path, named: dict[str, Tensor]) -> None:
    content = safetensors.torch.save(named, metadata={"format": "pt"})
    read_back = read(path, content)
    assert read_back.keys() == named.keys()
    assert all(read_back[name].dtype == named[name].dtype for name in named)
    is_as_the_library_says(path, content)


GOOD = safetensors.torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3).half()}, metadata={"format": "pt"})


@settings(max_examples=4000, deadline=None)
@given(st.data())
def test_a_file_with_changed_bytes_is_the_librarys_or_refused(path: Path, data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"9", b"-", b"[", b"}", b'"', b"0", b",", b"e"]))
        content[at : at + data.draw(st.integers(0, 3))] = piece
    cut = data.draw(st.integers(0, len(content)))
    is_as_the_library_says(path, bytes(content[: cut or None]))


sizes = st.integers(-1, 20) | st.sampled_from([2**31, 2**63, 2**64, 10**30]) | st.floats() | st.booleans() | st.none()
lists = st.lists(sizes, max_size=4)
words = st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "f32", ""]) | st.none() | st.integers()
entries = st.fixed_dictionaries({"dtype": words, "shape": lists, "data_offsets": lists}) | st.fixed_dictionaries(
    {"dtype": st.just("F32"), "shape": st.just([2]), "data_offsets": st.just([0, 8])}, optional={"more": lists}
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=5000, deadline=None)
@given(
    st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), entries | anything, max_size=4) | anything,
    st.binary(max_size=24),
)
@example({"a": entry(2), "b": entry(2, start=4)}, bytes(12))  # they overlap
@example({"a": entry(2), "b": entry(2, start=12)}, bytes(20))  # with a hole between
@example({"a": entry(1)}, bytes(8))  # with bytes that nobody has
@example({"a": entry(0), "b": entry(0)}, b"")
def test_a_header_of_anything_is_the_librarys_or_refused(path: Path, header: Any, data: bytes) -> None:
    is_as_the_library_says(path, file_of(header, data))


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "a length alone": ((100).to_bytes(8, "little"), "cut off"),
    "a length past the end": (file_of(b"{}")[:9], "cut off"),
    "a length of 2^63": ((2**63).to_bytes(8, "little") + b"{}", "cut off"),
    "a header too large": (file_of(b"{" + b" " * (17 << 20) + b"}"), "too large for an adapter"),
    "a header 100,000 deep": (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deeply"),
    "a key twice": (file_of(b'{"a":%s,"a":%s}' % ((json.dumps(entry(1)).encode(),) * 2), bytes(4)), "a key twice"),
    "a dtype twice": (file_of(b'{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}'), "a key twice"),
    "NaN": (file_of(b'{"a":NaN}'), "holds NaN"),
    "a number of 5,000 digits": (file_of(b'{"a":' + b"9" * 5000 + b"}"), "digits"),
    "half a character": (file_of(b'{"\xff":1}'), "decode"),
    "a tensor of 2^60 numbers": (file_of({"a": entry(2**30, 2**30)}), "tensors have"),
    "two that overlap": (file_of({"a": entry(2), "b": entry(2, start=4)}, bytes(12)), "b does not begin where"),
    "bytes that nobody has": (file_of({"a": entry(1)}, bytes(8)), "have 4 bytes, but 8 are there"),
    "integers": (file_of({"a": entry(1, dtype="I32")}, bytes(4)), "has the dtype I32"),
    "a name that would steer the terminal": (file_of({"\x1b[2J": 1}), r"\\x1b\[2J is not described"),
    "metadata that is no text": (file_of({"__metadata__": {"a": {}}}), "no table of texts"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.timeout(2)
def test_a_hostile_file_is_refused_at_once_and_in_little_memory(path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(AdapterError, match=message):
            TensorFile(path, file)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_a_file_changed_between_check_and_reading_is_refused(path: Path) -> None:
    content = safetensors.torch.save({"a": torch.zeros(50_000)})  # more than is read ahead
    digest = hashlib.sha256(content).hexdigest()
    assert read(path, content, digest).keys() == {"a"}
    with pytest.raises(AdapterError, match="sha256 is not the one"):
        read(path, content[:-1] + b"\x01", digest)
    with path.open("rb") as file:
        opened = TensorFile(path, file)
        with path.open("r+b") as other:
            other.truncate(len(content) - 2)
        with pytest.raises(AdapterError, match="changed while it was read"):
            opened.tensors()
