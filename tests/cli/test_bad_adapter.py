"""Adapters that are unknown, damaged or on another base, and their rows: never a wrong result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

REVIEW = '{"text": "fine", "label": "good"}\n{"text": "dull", "label": "bad"}\n'


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tinny", "; did you mean 'tiny'?"),
        ("zebra", "; it holds tiny"),
        ("../tiny", "'../tiny' cannot name an adapter: use small letters"),
        ("tiny/1", "'tiny/1' cannot name an adapter"),
        ("tiny@2", "tiny has no version '2'; it has 1"),
        ("tiny@../1", "tiny has no version '../1'; it has 1"),
        ("", "'' cannot name an adapter"),
    ],
)
def test_an_adapter_name(refused: Any, command: Any, shop: Any, name: str, told: str) -> None:
    for arguments in (["show", name], ["predict", name, "text"], ["evaluate", name]):
        refused(command(*arguments, "--store", shop.store, "--json"), 2, "AdapterError", told)


def test_an_empty_store(refused: Any, command: Any) -> None:
    refused(
        command("show", "tiny", "--json"), 2, "AdapterError", "no adapter 'tiny' in the store adapters; it holds none"
    )


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("adapter_model.safetensors", b"x", "has been changed or damaged: its sha256 is not the one it was saved with"),
        ("adapter_config.json", None, "adapter_config.json is missing"),
        ("pefttune.json", b"{", "pefttune.json is damaged"),
        ("pefttune.json", b"[]", "pefttune.json is not a manifest of pefttune"),
        ("pefttune.json", b'{"format": 1}', "format 1 is not 2, which this pefttune reads; train it anew, or use"),
        ("pefttune.json", b'{"format": 2}', "pefttune.json is damaged: name, recipe, labels, inputs, base, "),
    ],
)
def test_a_damaged_adapter(
    refused: Any, command: Any, copied: Path, file: str, content: bytes | None, told: str
) -> None:
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_bytes(content)
    for arguments in (["show", "tiny"], ["predict", "tiny", "text"], ["evaluate", "tiny"]):
        refused(command(*arguments, "--json"), 2, "AdapterError", told)


@pytest.mark.parametrize("key", ["recipe", "labels", "inputs", "base", "data", "comparison", "files"])
def test_a_manifest_of_the_wrong_shape(refused: Any, command: Any, copied: Path, key: str) -> None:
    good = json.loads((copied / "pefttune.json").read_text())
    for value in (None, 7, "text", ["a"] if key not in ("labels", "inputs") else {}):
        (copied / "pefttune.json").write_text(json.dumps({**good, key: value}))
        refused(command("predict", "tiny", "text", "--json"), 2, "AdapterError", f"damaged: {key} missing or of the")
        assert f"damaged: {key} missing" in command("list", "--json").document["damaged"][0]


def test_an_adapter_goes_on_no_other_base(
    refused: Any, command: Any, shop: Any, known_bases: Path, new_model: Any, tmp_path: Path
) -> None:
    """Another seed is other tensors, another shape also another config; each difference is told with both digests."""
    manifest = json.loads((shop.store / "tiny" / "1" / "pefttune.json").read_text())
    own = manifest["base"]["fingerprint"]
    new_model(tmp_path / "other", seed=1)
    done = command("predict", "tiny", "text", "--base", tmp_path / "other", "--store", shop.store, "--json")
    refused(done, 2, "AdapterError", "tiny was trained on another base (tiny, tiny). They differ in: tensors (")
    assert f" here, {own['tensors']} there)" in done.document["error"]
    assert "config (" not in done.document["error"]
    new_model(tmp_path / "wider", intermediate_size=96)
    done = command(
        "evaluate", "tiny", "--data", shop.reviews, "--base", tmp_path / "wider", "--store", shop.store, "--json"
    )
    refused(done, 2, "AdapterError", "They differ in: config (", "; tensors (")


def test_a_private_base_that_was_never_seen(refused: Any, command: Any, shop: Any, tiny: Path) -> None:
    """Here the cache is empty; a path is never in the adapter."""
    arguments = ["predict", "tiny", "text", "--store", shop.store, "--json"]
    refused(
        command(*arguments), 2, "AdapterError", "private base that this machine has not seen; say where it lies with"
    )
    assert command(*arguments, "--base", tiny).code == 0


def test_private_rows_that_are_elsewhere(refused: Any, command: Any, shop: Any, known_bases: Path) -> None:
    done = command("evaluate", "tiny", "--store", shop.store, "--json")
    refused(done, 2, "DataError", "reviews.jsonl does not exist.", "Labelled rows can be given with --data FILE.")


def test_rows_to_evaluate_with_another_label(
    refused: Any, command: Any, shop: Any, known_bases: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(REVIEW + '{"text": "so so", "label": "neutral"}\n')
    done = command("evaluate", "tiny", "--data", "x.jsonl", "--store", shop.store, "--json")
    refused(done, 2, "DataError", "x.jsonl:3, column `label`: 'neutral' is not one of bad, good")
