"""Fetching by pip for real, from a folder that stands in for the package index."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from pefttune.data import Pin, cache_dir, extract_member, fetch
from pefttune.errors import FetchError, StorageError

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
BACKEND = f"""
import os
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.makedirs(os.path.join(folder, "tiny-1.0.dist-info"))
    with open(os.path.join(folder, "tiny-1.0.dist-info", "METADATA"), "w") as file:
        file.write({METADATA!r})
    return "tiny-1.0.dist-info"
def build_wheel(*_, **__):
    raise SystemExit("nothing is to be built")
"""


def wheel_in(folder: Path) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("tiny/model.bin", b"weights")
        bundle.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        bundle.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def sdist_in(folder: Path) -> Path:
    path = folder / "tiny-1.0.tar.gz"
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    with tarfile.open(path, "w:gz") as tape:
        for name, content in [("PKG-INFO", METADATA), ("pyproject.toml", project), ("backend.py", BACKEND)]:
            entry = tarfile.TarInfo(f"tiny-1.0/{name}")
            entry.size = len(content)
            tape.addfile(entry, io.BytesIO(content.encode()))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip looks in."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pin_of(archive: Path) -> Pin:
    kind = "wheel" if archive.suffix == ".whl" else "sdist"
    return Pin("tiny", "1.0", sha256(archive.read_bytes()).hexdigest(), kind)


@pytest.mark.parametrize("make", [wheel_in, sdist_in])
def test_fetched_once_then_taken_from_the_cache(index: Path, tmp_path: Path, monkeypatch, make) -> None:
    archive = make(index)
    pin, cache = pin_of(archive), tmp_path / "cache"
    got = fetch(pin, cache)
    assert got == cache / "archives" / pin.sha256 / archive.name
    assert got.read_bytes() == archive.read_bytes()
    assert [path.name for path in (cache / "archives").iterdir()] == [pin.sha256]  # nothing temporary is left
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    assert fetch(pin, cache) == got


def test_the_kind_is_kept(index: Path, tmp_path: Path) -> None:
    wheel, sdist = wheel_in(index), sdist_in(index)
    assert fetch(pin_of(sdist), tmp_path).name == sdist.name
    assert fetch(pin_of(wheel), tmp_path).name == wheel.name


def test_a_damaged_archive_in_the_cache_is_replaced(index: Path, tmp_path: Path) -> None:
    archive = wheel_in(index)
    got = fetch(pin_of(archive), tmp_path / "cache")
    got.write_bytes(got.read_bytes()[:-1])
    assert fetch(pin_of(archive), tmp_path / "cache").read_bytes() == archive.read_bytes()


def test_another_sha256(index: Path, tmp_path: Path) -> None:
    real = pin_of(wheel_in(index)).sha256
    with pytest.raises(FetchError) as caught:
        fetch(Pin("tiny", "1.0", "0" * 64, "wheel"), tmp_path / "cache")
    assert str(caught.value) == (
        f"The wheel tiny 1.0 is not the pinned one: its sha256 is {real}, and not {'0' * 64}. It was not kept."
    )
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_pip_is_not_trusted_with_the_hash(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command, **_):
        Path(command[-1]).mkdir()
        (Path(command[-1]) / "tiny.whl").write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FetchError, match=rf"its sha256 is {sha256(b'other').hexdigest()}, and not {'0' * 64}\."):
        fetch(Pin("tiny", "1.0", "0" * 64, "wheel"), tmp_path)


def test_not_in_the_index(index: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "archives" / ("0" * 64)
    with pytest.raises(FetchError) as caught:
        fetch(Pin("tiny", "2.0", "0" * 64, "wheel"), tmp_path)
    assert str(caught.value) == (
        "The wheel tiny 2.0 could not be fetched: pip says “ERROR: No matching distribution found for tiny==2.0”. "
        f"Its archive may also be put into {shelf} by hand."
    )


def test_by_hand(index: Path, tmp_path: Path) -> None:
    archive = wheel_in(tmp_path)
    pin = pin_of(archive)
    shelf = tmp_path / "archives" / pin.sha256
    shelf.mkdir(parents=True)
    placed = archive.rename(shelf / "any-name.whl")
    assert fetch(pin, tmp_path) == placed


def test_no_network(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["PIP_NO_INDEX", "PIP_FIND_LINKS"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # a port where nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(FetchError, match=r"tiny 1\.0 could not be fetched: the package index could not be reached\."):
        fetch(Pin("tiny", "1.0", "0" * 64, "wheel"), tmp_path)


def test_a_file_of_the_user_is_not_taken_for_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)
    assert fetch(pin_of(wheel_in(index)), Path("cache")).is_file()


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(FetchError, match=r"could not be fetched: this Python has no pip \(`python -m ensurepip`"):
        fetch(Pin("tiny", "1.0", "0" * 64, "wheel"), tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr))
    with pytest.raises(
        StorageError, match=r"^The wheel tiny 1\.0 could not be stored in .*: no space left on device\."
    ):
        fetch(Pin("tiny", "1.0", "0" * 64, "wheel"), tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written: Not a directory"):
        fetch(Pin("tiny", "1.0", "0" * 64, "wheel"), tmp_path / "file")


def test_two_at_once(index: Path, tmp_path: Path) -> None:
    pin = pin_of(wheel_in(index))
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(pin, tmp_path / "cache"), range(2)))
    assert paths[0] == paths[1]
    assert sha256(paths[0].read_bytes()).hexdigest() == pin.sha256


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("PEFTTUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/pefttune")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/pefttune")
    monkeypatch.setenv("PEFTTUNE_CACHE", "~/own")
    assert cache_dir() == Path("/home/someone/own")


def test_extract_from_a_wheel(tmp_path: Path) -> None:
    extract_member(wheel_in(tmp_path), "tiny/model.bin", tmp_path / "out" / "model.bin")
    assert (tmp_path / "out" / "model.bin").read_bytes() == b"weights"


def test_extract_from_an_sdist(tmp_path: Path) -> None:
    extract_member(sdist_in(tmp_path), "tiny-1.0/PKG-INFO", tmp_path / "out")
    assert (tmp_path / "out").read_text() == METADATA


@pytest.mark.parametrize("make", [wheel_in, sdist_in])
def test_extract_what_is_not_there(tmp_path: Path, make) -> None:
    archive = make(tmp_path)
    with pytest.raises(FetchError) as caught:
        extract_member(archive, "tiny/other", tmp_path / "out")
    assert str(caught.value) == f"{archive.name} holds no file `tiny/other`"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_extract_follows_no_link(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tape:
        entry = tarfile.TarInfo("model.bin")
        entry.type, entry.linkname = kind, str(tmp_path / "secret")
        tape.addfile(entry)
    with pytest.raises(FetchError, match=r"holds no file `model\.bin`$"):
        extract_member(tmp_path / "a.tar.gz", "model.bin", tmp_path / "out")


def test_extract_takes_a_hostile_name_as_a_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as bundle:
        bundle.writestr("../../escaped", b"x")
    extract_member(tmp_path / "a.whl", "../../escaped", tmp_path / "in" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.whl", "in", "out"]


@pytest.mark.parametrize(("make", "member"), [(wheel_in, "tiny/model.bin"), (sdist_in, "tiny-1.0/backend.py")])
@pytest.mark.parametrize("kept", [0, 60, 200, 400])
def test_extract_from_a_cut_archive(tmp_path: Path, make, member: str, kept: int) -> None:
    archive = make(tmp_path)
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(FetchError, match=rf"^{re.escape(archive.name)} is damaged: "):
        extract_member(archive, member, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_extract_from_a_flipped_archive(tmp_path: Path) -> None:
    archive = wheel_in(tmp_path)
    archive.write_bytes(archive.read_bytes().replace(b"weights", b"wEights"))
    with pytest.raises(FetchError, match="is damaged: Bad CRC-32"):
        extract_member(archive, "tiny/model.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()
