"""Stored adapters that something can be made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def family(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store here, in a folder with their data, of adapters alike but for their weights: `family("head", "one",
    "two")`; the first is one that was trained."""

    def make(kind: str, first: str, *others: str) -> Path:
        import torch
        from safetensors.torch import load_file, save_file

        from pefttune import store

        done = finished(kind)
        shutil.copytree(done.cache, tmp_path / "cache")
        monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "cache"))
        shutil.copy(done.store.parent / "reviews.jsonl", tmp_path)
        for number, name in enumerate((first, *others)):
            folder = Path(shutil.copytree(done.run.folder, tmp_path / "adapters" / name / "1"))
            weights = folder / "adapter_model.safetensors"
            torch.manual_seed(number)
            state = {key: each + number * 0.02 * torch.randn_like(each) for key, each in load_file(weights).items()}
            save_file(state, weights)
            change(folder, name=name, version=store.MANIFEST)
        return tmp_path / "adapters"

    def change(folder: Path, version: str = "pefttune.json", **changes: Any) -> None:
        from pefttune import store

        manifest = json.loads((folder / version).read_text())
        del manifest["format"], manifest["files"]
        store.write_manifest(folder, {**manifest, **changes})

    make.change = change
    return make
