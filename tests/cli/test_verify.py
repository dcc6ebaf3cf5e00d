"""`pefttune verify`: whatever was changed since the training is found, and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pefttune.store import write_manifest


@pytest.fixture
def folder(shop: Any, known_bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained adapter, in a store of one's own."""
    monkeypatch.chdir(tmp_path)
    copied: Path = shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / "1")
    return copied


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """The manifest with a change that its own digests do not betray."""
    manifest = json.loads((folder / "pefttune.json").read_text())
    edit(manifest)
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})


def test_it_is_what_was_trained(command: Any, folder: Path) -> None:
    document = command("verify", "tiny", "--json").document
    assert document == {
        "name": "tiny",
        "folder": "adapters/tiny/1",
        "verdict": "equal",
        "rows": 16,
        "largest": 0.0,
        "dtype": "float32",
        "versions": {},
        "base_mismatch": {},
    }
    assert command("verify", "tiny").out == (
        "tiny: equal. It scores its 16 probe rows to the bit as when it was trained.\n"
    )


def moved(by: float) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["probe"]["scores"][3][0][0] += by

    return edit


def test_rounding_of_another_device_is_told_from_a_difference(command: Any, refused: Any, folder: Path) -> None:
    edited(folder, moved(1e-4))
    document = command("verify", "tiny", "--json").document
    assert (document["verdict"], document["largest"]) == ("rounding", pytest.approx(1e-4, rel=1e-3))
    assert "up to 0.0001 away" in command("verify", "tiny").out
    edited(folder, moved(0.1))
    done = command("verify", "tiny", "--json")
    refused(done, 1, "VerificationError", "tiny is not what was trained", "more than rounding of float32 explains")


def test_another_number_of_scores_is_a_difference(command: Any, refused: Any, folder: Path) -> None:
    edited(folder, lambda manifest: manifest["probe"]["scores"][0][0].append(1.0))
    refused(command("verify", "tiny", "--json"), 1, "VerificationError", "up to inf away")
    edited(folder, lambda manifest: manifest["probe"]["scores"].pop())
    refused(command("verify", "tiny", "--json"), 1, "VerificationError", "up to inf away")


def test_libraries_that_have_changed_are_named(command: Any, folder: Path) -> None:
    edited(folder, lambda manifest: manifest["versions"].update(torch="1.0"))
    [there, here] = command("verify", "tiny", "--json").document["versions"]["torch"]
    assert there == "1.0"
    assert command("verify", "tiny").out.endswith(f"Since then: torch {here} instead of 1.0\n")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md", "figure.png"])
def test_a_changed_file_is_named(command: Any, refused: Any, folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    refused(command("verify", "tiny", "--json"), 2, "AdapterError", f"{name} has been changed or damaged")


@pytest.mark.parametrize("name", ["adapter_model.bin", "chat_template.jinja", "original"])
def test_a_file_more_is_named(command: Any, refused: Any, folder: Path, name: str) -> None:
    (folder / name).mkdir() if name == "original" else (folder / name).write_text("more")
    for verb in ("verify", "show"):
        refused(command(verb, "tiny", "--json"), 2, "AdapterError", f"{name} is not among the files that were saved")


@pytest.mark.parametrize("field", ["config", "tensors", "quantization", "tokenizer", "chat_template"])
def test_another_base_is_told_by_what_differs(command: Any, refused: Any, folder: Path, tiny: Path, field: str) -> None:
    before = json.loads((folder / "pefttune.json").read_text())["base"]["fingerprint"][field]
    edited(folder, lambda manifest: manifest["base"]["fingerprint"].update({field: "other"}))
    done = command("verify", "tiny", "--base", tiny, "--json")
    told = f"They differ in: {field.replace('_', ' ')} ({before} here, other there)"
    refused(done, 2, "AdapterError", "tiny was trained on another base", told)
