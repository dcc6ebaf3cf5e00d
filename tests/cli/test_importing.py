"""`pefttune import`: what it prints, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def plain(shop: Any, known_bases: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder as PEFT leaves it, made of the trained adapter, beside its rows; and the recipe, to store here."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    shutil.copy(shop.reviews, tmp_path)
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shop.store / "tiny" / "1" / name, folder)
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    text = shop.recipe.read_text().replace(str(shop.folder / "adapters"), str(tmp_path / "adapters"))
    (tmp_path / "own.yaml").write_text(text.replace(str(shop.folder / "runs"), str(tmp_path / "runs")))
    return folder


def test_taken_in_shown_and_used(command: Any, shop: Any, plain: Path, tmp_path: Path) -> None:
    done = command("import", plain, "own.yaml", "--as", "mine", "--json")
    assert done.code == 0, done.err
    document = done.document
    assert (document["name"], document["version"], document["lineage"]["how"]) == ("mine", 1, "import")
    assert document["notes"] == [
        "not read: training_args.bin",
        "never opened, for a pickle runs code: training_args.bin",
    ]
    assert "notice: not read: training_args.bin" in done.err
    trained = command("show", "tiny", "--store", shop.store, "--json").document
    shown = command("show", "mine", "--json").document
    assert shown["weights"] == trained["weights"]
    assert shown["probe"] == trained["probe"], "it is the same adapter, so it answers alike, to the bit"
    assert "Trained elsewhere, and taken in" in " ".join(command("show", "mine").out.split())
    assert command("predict", "mine", "a fine film").code == 0
    again = command("import", plain, "own.yaml", "data.max_test_samples=4", "--as", "mine", "--max-rows", "8")
    assert again.code == 0, again.err
    assert "on 4 held-out rows" in again.out
    assert "stored, read back and verified: " in again.out
    assert again.out.endswith('use it: pefttune predict mine "…"\n')
    assert (tmp_path / "adapters" / "mine" / "2").is_dir()


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        (["nowhere", "own.yaml", "--as", "mine"], "AdapterError", "nowhere is no folder"),
        (["plain", "no-such-recipe", "--as", "mine"], "RecipeError", "no-such-recipe"),
        (["plain", "own.yaml", "--as", "../mine"], "AdapterError", "'../mine' cannot name an adapter"),
        (["plain", "own.yaml"], "InputError", "--as"),
        (["plain", "own.yaml", "--as", "mine", "--max-rows", "0"], "InputError", "--max-rows"),
        (["plain", "own.yaml", "data.max_lenght=3", "--as", "mine"], "RecipeError", "max_length"),
    ],
)
def test_bad_input(
    refused: Any, command: Any, plain: Path, tmp_path: Path, arguments: list[str], kind: str, told: str
) -> None:
    refused(command("import", *arguments, "--json"), 2, kind, told)
    assert not list((tmp_path / "adapters").rglob("*"))
