"""Small bases of several architectures, in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def folder_of(model_of: Any, new_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of such a model, with a tokenizer, made once; read only."""
    folders: dict[str, Path] = {}

    def save(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            new_tokenizer(folders[kind])
            model_of(kind).save_pretrained(folders[kind])
        return folders[kind]

    return save
