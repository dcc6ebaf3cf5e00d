"""Whatever is changed after the training, in the adapter's folder or in the base's, is found and named: when the
adapter is verified, and when it is loaded. (For pulling: tests/cli/hub/test_pull.py.)"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pefttune import pipeline
from pefttune.errors import AdapterError
from pefttune.inference import open_session

FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "figure.png")
Tamper = Callable[[Path, Path], object]


def flipped(name: str) -> Tamper:
    """One bit of a file of the adapter."""

    def tamper(adapter: Path, base: Path) -> None:
        content = bytearray((adapter / name).read_bytes())
        content[len(content) // 2] ^= 1
        (adapter / name).write_bytes(content)

    return tamper


def another_tokenizer(adapter: Path, base: Path) -> None:
    """Two tokens change places."""
    content = json.loads((base / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (base / "tokenizer.json").write_text(json.dumps(content))


def another_template(adapter: Path, base: Path) -> None:
    path = base / "chat_template.jinja"
    path.write_text(path.read_text() + "{# be evil #}")


def another_configuration(adapter: Path, base: Path) -> None:
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**content, "rms_norm_eps": 0.5}))


def another_base(adapter: Path, base: Path) -> None:
    """One number of one weight, as after a step of training."""
    path = base / "model.safetensors"
    state = load_file(path)
    state["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-3
    save_file(state, path, metadata={"format": "pt"})


def gone(name: str) -> Tamper:
    return lambda adapter, base: (adapter / name).unlink()


TAMPERED: dict[str, tuple[Tamper, str]] = {
    **{f"{name} changed": (flipped(name), rf"{name} has been changed or damaged") for name in FILES},
    **{f"{name} gone": (gone(name), f"{name} is missing") for name in FILES},
    "the manifest gone": (lambda adapter, base: (adapter / "pefttune.json").unlink(), "no adapter 'tiny' in the store"),
    "a file more": (
        lambda adapter, base: (adapter / "chat_template.jinja").touch(),
        r"chat_template\.jinja is not among the files that were saved",
    ),
    "another tokenizer": (another_tokenizer, r"differ in: tokenizer \("),
    "another chat template": (another_template, r"differ in: chat template \("),
    "another configuration": (another_configuration, r"differ in: config \("),
    "another base": (another_base, r"differ in: tensors \("),
}


@pytest.fixture
def places(finished: Any, tiny: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A stored adapter and its base, to be spoiled."""
    adapter = shutil.copytree(finished().run.folder, tmp_path / "adapters" / "tiny" / "1")
    return Path(adapter), Path(shutil.copytree(tiny, tmp_path / "base"))


def test_nothing_changed(places: tuple[Path, Path]) -> None:
    adapter, base = places
    assert pipeline.verify("tiny", adapter.parents[1], str(base)).verdict.word == "equal"


@pytest.mark.parametrize("what", TAMPERED)
def test_it_is_found_and_named(places: tuple[Path, Path], what: str) -> None:
    tamper, told = TAMPERED[what]
    tamper(*places)
    adapter, base = places
    for use in (pipeline.verify, open_session):
        with pytest.raises(AdapterError, match=told) as raised:
            use("tiny", adapter.parents[1], base_source=str(base))
        assert str(raised.value).count("differ in") <= 1
        assert "; " not in str(raised.value).partition("differ in")[2], "only what was changed is named"
