"""A signature holds for the folder that was signed and the key that signed it, and for nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pefttune import publishing, store
from pefttune.errors import AdapterError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries under model-signing


@pytest.fixture(scope="session")
def new_key(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Path, Path]]:
    """Makes a pair of keys: private, public."""
    pytest.importorskip("model_signing", reason="needs pip install 'pefttune[sign]'")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    def make() -> tuple[Path, Path]:
        key, folder = ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("keys")
        plain = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        (folder / "private.pem").write_bytes(key.private_bytes(*plain))
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (folder / "public.pem").write_bytes(public)
        return folder / "private.pem", folder / "public.pem"

    return make


@pytest.fixture(scope="session")
def keys(new_key: Any) -> tuple[Path, Path]:
    pair: tuple[Path, Path] = new_key()
    return pair


@pytest.fixture
def signed(folder: Path, keys: tuple[Path, Path]) -> Path:
    """A signed adapter."""
    assert publishing.sign(folder, keys[0]) == folder / "model.sig"
    return folder


def test_a_signed_adapter_is_as_good_as_before(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    publishing.check_signature(signed, keys[1])
    assert store.read_manifest(signed)["name"] == "tiny"
    assert [path.name for path in signed.parent.iterdir()] == ["1"]
    elsewhere = Path(shutil.copytree(signed, tmp_path / "elsewhere" / "7"))
    publishing.check_signature(elsewhere, keys[1])
    publishing.sign(elsewhere, keys[0])  # anew
    publishing.check_signature(elsewhere, keys[1])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed file": (lambda folder: (folder / "README.md").write_text("other"), r"Hash mismatch for README\.md$"),
    "a changed manifest": (lambda folder: (folder / "pefttune.json").write_text("{}"), "mismatch for pefttune.json"),
    "a file more": (lambda folder: (folder / "evil.py").touch(), r"Extra files found in model 1: evil\.py"),
    "a file less": (lambda folder: (folder / "figure.png").unlink(), r"Missing files in model 1: figure\.png"),
    "no signature": (lambda folder: (folder / "model.sig").unlink(), "has no signature"),
    "an empty signature": (lambda folder: (folder / "model.sig").write_bytes(b""), "does not hold"),
    "another's words": (lambda folder: (folder / "model.sig").write_text("[" * 100_000), "does not hold"),
    "a signature of nothing": (lambda folder: (folder / "model.sig").write_text('{"dsseEnvelope": {}}'), "does not"),
    "a signature of 100 MB": (lambda folder: os.truncate(folder / "model.sig", 100 << 20), "has no sig"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_what_was_changed_is_named(signed: Path, keys: tuple[Path, Path], what: str) -> None:
    """Digests in the manifest that agree again help nobody: the manifest is signed, too."""
    spoil, told = SPOILED[what]
    spoil(signed)
    with pytest.raises(AdapterError, match=told) as raised:
        publishing.check_signature(signed, keys[1])
    assert len(str(raised.value)) < 1000


def test_digests_that_agree_again_do_not_help(signed: Path, keys: tuple[Path, Path], sealed: Any) -> None:
    (signed / "README.md").write_text("other")
    sealed(signed)
    assert store.read_manifest(signed)["name"] == "tiny"
    with pytest.raises(AdapterError, match=r"README\.md.*pefttune\.json"):
        publishing.check_signature(signed, keys[1])


def test_another_key_does_not_fit(signed: Path, new_key: Any) -> None:
    with pytest.raises(AdapterError, match="does not hold for this folder and the key"):
        publishing.check_signature(signed, new_key()[1])


def test_a_signature_of_another_adapter_does_not_fit(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, sealed: Any
) -> None:
    other = Path(shutil.copytree(signed, tmp_path / "other" / "1"))
    (other / "figure.png").write_bytes(b"another")
    sealed(other)
    publishing.sign(other, keys[0])
    shutil.copy(other / "model.sig", signed)
    with pytest.raises(AdapterError, match=r"mismatch for figure\.png"):
        publishing.check_signature(signed, keys[1])


def test_a_key_that_is_none(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    for path in (tmp_path / "key.pem", tmp_path / "nowhere.pem", keys[1]):
        with pytest.raises(InputError, match=r"--key .* is no private key of an elliptic curve"):
            publishing.sign(folder, path)
    publishing.sign(folder, keys[0])
    for path in (tmp_path / "key.pem", tmp_path / "nowhere.pem", keys[0]):
        with pytest.raises(InputError, match=r"--key .* is no public key of an elliptic curve"):
            publishing.check_signature(folder, path)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["1"]


@pytest.mark.parametrize("act", [publishing.sign, publishing.check_signature])
def test_an_extra_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(InputError, match=r"pip install 'pefttune\[sign\]'"):
        act(folder, Path("key.pem"))


def test_it_goes_out_with_the_folder(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from pefttune import pipeline

    pipeline.export_peft("tiny", tmp_path / "out", signed.parents[1])
    publishing.check_signature(tmp_path / "out", keys[1])


def test_a_publication_is_signed_as_it_is_sent(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Its card and its manifest are others than those of the store."""
    with publishing.prepare(folder, "anna/x", private=True, license="MIT", key=keys[0]) as publication:
        assert "model.sig" in {file.name for file in publication.files}
        for file in publication.files:
            (tmp_path / "there").mkdir(exist_ok=True)
            shutil.copy(file.path, tmp_path / "there" / file.name)
    publishing.check_signature(tmp_path / "there", keys[1])
    assert json.loads((tmp_path / "there" / "pefttune.json").read_text())["name"] == "tiny"


def test_a_link_where_the_signature_waits_is_not_written_through(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """In a store that others may write to."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (f".{folder.name}-model.sig", ".model.sig-", "model.sig.new"):
        (folder.parent / name).symlink_to(victim)
    (folder / "model.sig").symlink_to(victim)
    publishing.sign(folder, keys[0])
    assert victim.read_text() == "mine"
    assert not (folder / "model.sig").is_symlink()
    publishing.check_signature(folder, keys[1])
