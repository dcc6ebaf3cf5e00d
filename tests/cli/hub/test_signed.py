"""A signature goes with a publication and comes with what is pulled; with a key, nothing else is taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# huggingface_hub 2.4 sends files by LFS with an argument that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private, public."""
    pytest.importorskip("model_signing", reason="needs pip install 'pefttune[sign]'")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key, private, public = ec.generate_private_key(ec.SECP256R1()), tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_signed_there_and_here(command: Any, refused: Any, hub: Any, folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert command("publish", "tiny", "--repo-id", "anna/reviews", "--key", private).code == 0
    there = hub.repos["anna/reviews"]
    assert "model.sig" in there.files()
    assert command("pull", "anna/reviews", "--key", public, "--json").document["name"] == "reviews@1"
    document = command("verify", "reviews", "--key", public, "--json").document
    assert (document["verdict"], document["signed_by"]) == ("equal", str(public))

    manifest, card = json.loads(there.files()["pefttune.json"]), b"another card"
    manifest["files"]["README.md"] = hashlib.sha256(card).hexdigest()
    there.commit({"README.md": card, "pefttune.json": json.dumps(manifest).encode()})
    assert command("pull", "anna/reviews", "--as", "unasked").code == 0
    done = command("pull", "anna/reviews", "--as", "asked", "--key", public, "--json")
    refused(done, 2, "AdapterError", "model.sig does not hold", "Hash mismatch for README.md")

    assert command("publish", "tiny", "--repo-id", "anna/reviews").code == 0
    assert "model.sig" not in there.files()
    done = command("pull", "anna/reviews", "--as", "asked", "--key", public, "--json")
    refused(done, 2, "AdapterError", "has no signature")


def test_a_stored_adapter_is_signed(command: Any, refused: Any, folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    refused(command("verify", "tiny", "--key", public, "--json"), 2, "AdapterError", "has no signature")
    assert command("sign", "tiny", "--key", private, "--json").document["signature"] == "adapters/tiny/1/model.sig"
    assert command("show", "tiny").code == 0
    (folder / "README.md").write_text("other")
    refused(command("sign", "tiny", "--key", private, "--json"), 2, "AdapterError", "README.md has been changed")
    refused(command("verify", "tiny", "--key", public, "--json"), 2, "AdapterError", "README.md has been changed")


def test_a_store_that_changes_meanwhile(
    command: Any, hub: Any, folder: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is what is signed, sent and scored, whatever somebody writes to the store after that."""
    from pefttune import store

    private, public = keys
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    @contextmanager
    def changed(version: Path) -> Iterator[Path]:
        with copied(version) as copy:
            for name in before:
                (folder / name).write_bytes(b"other")
            yield copy
            for name, content in before.items():
                (folder / name).write_bytes(content)

    copied = store.copied
    monkeypatch.setattr(store, "copied", changed)
    assert command("sign", "tiny", "--key", private).code == 0
    assert command("verify", "tiny", "--key", public, "--json").document["verdict"] == "equal"
    assert command("publish", "tiny", "--repo-id", "anna/reviews").code == 0
    there = hub.repos["anna/reviews"].files()
    for name in ("adapter_config.json", "adapter_model.safetensors", "figure.png"):
        assert there[name] == before[name]
    assert json.loads(there["pefttune.json"])["probe"] == json.loads(before["pefttune.json"])["probe"]
