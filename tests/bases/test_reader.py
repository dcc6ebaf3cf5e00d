"""How a base reads, without its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from pefttune import bases
from pefttune.errors import BaseError
from pefttune.recipe import schema


@pytest.fixture
def weightless(tiny: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny, tmp_path / "weightless")
    (folder / "model.safetensors").unlink()
    return folder


def reader_of(folder: Path | str) -> bases.Reader:
    return bases.open_reader(schema.Base(source=str(folder)))


def test_tokenizer_kind_and_positions_without_weights(weightless: Path) -> None:
    reader = reader_of(weightless)
    assert (reader.causal, reader.positions, reader.tokenizer.eos_token) == (True, 512, "<|end|>")


def test_an_encoder(weightless: Path) -> None:
    BertConfig(max_position_embeddings=128, architectures=["BertModel"]).save_pretrained(weightless)
    reader = reader_of(weightless)
    assert (reader.causal, reader.positions) == (False, 128)


def test_code_is_refused(weightless: Path) -> None:
    path = weightless / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(BaseError, match="names code to run"):
        reader_of(weightless)


@pytest.mark.parametrize(
    ("config", "told"), [(None, "no config.json there"), ('{"model_type": "nothing"}', "config.json cannot be read")]
)
def test_a_folder_that_is_no_model(weightless: Path, config: str | None, told: str) -> None:
    (weightless / "config.json").unlink()
    if config is not None:
        (weightless / "config.json").write_text(config)
    with pytest.raises(BaseError, match=told):
        reader_of(weightless)


def test_of_the_hub_all_but_the_weights_is_fetched(weightless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was fetched so is found again by a reader, but not taken for a whole base."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: list[Any] = []

    def snapshot_download(name: str, allow_patterns: Any = None, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only and not wanted:
            raise LocalEntryNotFoundError(name)
        if not local_files_only:
            wanted.append(allow_patterns)
        return str(weightless)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert reader_of("someone/large").positions == 512
    assert reader_of("someone/large").positions == 512
    assert len(wanted) == 1
    assert "*.json" in wanted[0]
    assert "*.safetensors" not in wanted[0]
    bases.locate("someone/large")
    assert "*.safetensors" in wanted[1]
