"""A fingerprint is the same for the same base, and each thing that makes another base changes its own field alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pefttune.bases import Fingerprint


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def changed(one: Fingerprint, other: Fingerprint) -> list[str]:
    return [field for field, value in asdict(one).items() if value != asdict(other)[field]]


def change_json(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_copy_is_the_same_base(base_of: Any, folder: Path) -> None:
    assert base_of(folder).fingerprint == base_of().fingerprint


def test_the_compute_dtype_makes_no_other_base(base_of: Any) -> None:
    assert base_of(dtype="bfloat16").fingerprint == base_of(dtype="float32").fingerprint


def test_how_the_config_was_written_does_not_count(base_of: Any, folder: Path) -> None:
    change_json(folder / "config.json", transformers_version="9.9", use_cache=False, _name_or_path="/home/me/x")
    assert base_of(folder).fingerprint == base_of().fingerprint


def test_sharded_files_are_the_same_base(base_of: Any, folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, members in shards.items():
        save_file({name: whole[name] for name in members}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert base_of(folder).fingerprint == base_of().fingerprint


def test_a_changed_config_changes_config_alone(base_of: Any, folder: Path) -> None:
    change_json(folder / "config.json", rms_norm_eps=1e-4)
    assert changed(base_of(folder).fingerprint, base_of().fingerprint) == ["config"]


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"]
)
def test_one_changed_value_changes_tensors_alone(base_of: Any, folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[0] += 1e-4  # in row 0, which is always among those that are sampled
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert changed(base_of(folder).fingerprint, base_of().fingerprint) == ["tensors"]


@pytest.mark.xfail(
    strict=True, reason="open: of a tensor with many rows some 16 to 31 are sampled, row 1 not among them"
)
def test_one_changed_value_in_any_row_changes_tensors(base_of: Any, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][1, 0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert changed(base_of(folder).fingerprint, base_of().fingerprint) == ["tensors"]


def test_a_fine_tuned_base_changes_tensors_alone(base_of: Any, new_model: Any, tmp_path: Path) -> None:
    other = new_model(tmp_path / "other", seed=1)
    assert changed(base_of(other).fingerprint, base_of().fingerprint) == ["tensors"]


def test_another_tokenizer_changes_tokenizer_alone(base_of: Any, folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    assert changed(base_of(folder).fingerprint, base_of().fingerprint) == ["tokenizer"]


def test_another_chat_template_changes_chat_template_alone(base_of: Any, folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "\n")
    assert changed(base_of(folder).fingerprint, base_of().fingerprint) == ["chat_template"]


def test_every_one_of_several_chat_templates_counts(base_of: Any, folder: Path) -> None:
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("one")
    one = base_of(folder).fingerprint
    (more / "tool_use.jinja").write_text("other")
    assert changed(base_of(folder).fingerprint, one) == ["chat_template"]
    assert changed(one, base_of().fingerprint) == ["chat_template"]


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_another_quantization_changes_quantization_alone(base_of: Any, quantization: str) -> None:
    assert changed(base_of(quantization=quantization).fingerprint, base_of().fingerprint) == ["quantization"]


def test_double_quantization_counts_where_it_acts(base_of: Any) -> None:
    def name(**changes: Any) -> str:
        return str(base_of(**changes).fingerprint.quantization)

    assert name(quantization="nf4") == "nf4+double"
    assert name(quantization="nf4", double_quantization=False) == "nf4"
    assert name(quantization="int8") == "int8"
    assert name(quantization="none") == name(quantization="none", double_quantization=False) == "none"


def test_differences_are_words_with_both_sides() -> None:
    one = Fingerprint("c", "t", "nf4", "k", "m")
    assert one.differences(one) == []
    assert one.differences(replace(one, quantization="int8", chat_template="n")) == [
        "quantization (nf4 here, int8 there)",
        "chat template (m here, n there)",
    ]


def test_the_digest_is_over_every_field() -> None:
    one = Fingerprint("c", "t", "nf4", "k", "m")
    digests = {one.digest, *(replace(one, **{field: "other"}).digest for field in asdict(one))}
    assert len(digests) == 1 + len(asdict(one))
    assert replace(one).digest == one.digest
