"""A folder is what its manifest says, or it is refused with the name of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pefttune import store
from pefttune.errors import AdapterError
from pefttune.store.manifest import MAX_BYTES


@pytest.fixture
def folder(tmp_path: Path, manifest: dict[str, Any]) -> Path:
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("card")
    store.write_manifest(folder, manifest)
    return folder


def change(folder: Path, **keys: Any) -> None:
    path = folder / store.MANIFEST
    content = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_what_is_written_is_read(folder: Path, manifest: dict[str, Any]) -> None:
    found = store.read_manifest(folder)
    assert {key: found[key] for key in manifest} == manifest
    assert found["format"] == 2
    assert found["files"].keys() == {"adapter_config.json", "adapter_model.safetensors", "README.md"}


SPOILERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one bit": (lambda f: f.write_bytes(b"veights" + b"weights" * 99), "has been changed or damaged"),
    "truncated": (lambda f: f.write_bytes(b"weights" * 99), "has been changed or damaged"),
    "longer": (lambda f: f.write_bytes(b"weights" * 100 + b"\0"), "has been changed or damaged"),
    "emptied": (lambda f: f.write_bytes(b""), "has been changed or damaged"),
    "removed": (lambda f: f.unlink(), "is missing"),
    "a folder": (lambda f: (f.unlink(), f.mkdir()), "is missing"),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_file_that_is_not_as_it_was_saved_is_named(folder: Path, spoiler: str) -> None:
    spoil, message = SPOILERS[spoiler]
    spoil(folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=rf"adapter_model\.safetensors {message}"):
        store.read_manifest(folder)
    assert store.read_manifest(folder, check_files=False)["name"] == "film"


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file", "", ".", ".."])
def test_a_manifest_cannot_point_out_of_its_folder(folder: Path, name: str) -> None:
    (folder.parent / "outside").touch()
    known = json.loads((folder / store.MANIFEST).read_text())["files"]
    change(folder, files={**known, name: "0" * 64})
    with pytest.raises(AdapterError, match="is missing"):
        store.read_manifest(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff\xfe"])
def test_a_manifest_that_is_none_is_told(folder: Path, content: bytes) -> None:
    (folder / store.MANIFEST).write_bytes(content)
    with pytest.raises(AdapterError, match=r"pefttune\.json is (damaged|not a manifest)"):
        store.read_manifest(folder)


@pytest.mark.parametrize("key", ["name", "recipe", "labels", "inputs", "base", "data", "comparison", "files"])
@pytest.mark.parametrize("value", [..., None, 7])
def test_a_manifest_without_what_is_needed_is_told(folder: Path, key: str, value: Any) -> None:
    change(folder, **{key: value})
    with pytest.raises(AdapterError, match=rf"is damaged: {key} missing or of the wrong kind"):
        store.read_manifest(folder)


def test_what_is_needed_deep_inside_is_named(folder: Path, manifest: dict[str, Any]) -> None:
    del manifest["base"]["fingerprint"]["tokenizer"]
    manifest["base"]["revision"] = 7
    change(folder, base=manifest["base"])
    with pytest.raises(AdapterError, match=r"damaged: base\.revision, base\.fingerprint\.tokenizer missing"):
        store.read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"primary": "f1"}, r"comparison\.shown\.f1, comparison\.adapter\.f1, .*"),
        ({"shown": {"f1": "F1"}}, r"comparison\.shown\.accuracy, .*"),
        ({"adapter": {"accuracy": "high"}}, r"comparison\.adapter\.accuracy"),
        ({"differences": []}, r"comparison\.differences"),
        ({"differences": {"there": 0.5}}, r"comparison\.differences"),
        ({"differences": [{"there": None}]}, r"comparison\.differences\.0\.against, .*0\.there, .*"),
        ({"differences": [7]}, r"comparison\.differences\.0"),
        ({"shown": {"accuracy": "accuracy", "f1": "F1"}}, r"comparison\.adapter\.f1, comparison\.others\.base\.f1"),
    ],
)
def test_a_comparison_without_its_primary_metric_is_told(
    folder: Path, manifest: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    change(folder, comparison={**manifest["comparison"], **changes})
    with pytest.raises(AdapterError, match=rf"is damaged: {told} missing or of the wrong kind"):
        store.read_manifest(folder)


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_told(folder: Path, other: int) -> None:
    change(folder, format=other)
    told = rf"format {other} is not 2, which this pefttune reads; train it anew, or use the pefttune that wrote it$"
    with pytest.raises(AdapterError, match=told):
        store.read_manifest(folder)


def test_a_folder_without_manifest_is_told(folder: Path) -> None:
    (folder / store.MANIFEST).unlink()
    with pytest.raises(AdapterError, match=r"pefttune\.json cannot be read: No such file"):
        store.read_manifest(folder)


def test_a_manifest_of_many_megabytes_is_not_read(folder: Path) -> None:
    with (folder / store.MANIFEST).open("ab") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(AdapterError, match="is too large: it may have 16,777,216 bytes"):
        store.read_manifest(folder)


def test_numbers_that_json_has_not_are_not_written(folder: Path, manifest: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_manifest(folder, {**manifest, "seconds": float("nan")})
