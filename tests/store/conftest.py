"""The least that a manifest must say."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def manifest() -> dict[str, Any]:
    """A manifest without files."""
    fingerprint = dict.fromkeys(("config", "tensors", "quantization", "tokenizer", "chat_template"), "0" * 32)
    return {
        "name": "film",
        "recipe": {"task": {"type": "text-classification"}, "data": {"columns": {}}, "base": {"source": "s"}},
        "labels": ["x", "ÿ"],
        "inputs": ["text"],
        "base": {
            "source": "s",
            "hub_id": None,
            "revision": None,
            "origin": "o",
            "dtype": "float32",
            "fingerprint": fingerprint,
        },
        "data": {"fingerprints": {}},
        "comparison": {
            "primary": "accuracy",
            "shown": {"accuracy": "accuracy"},
            "adapter": {"accuracy": 0.1},
            "others": {"base": {"accuracy": 0.5}},
            "differences": [{"against": "base", "there": 0.5}],
        },
        "head": None,
        "probe": {"rows": [], "scores": []},
        "versions": {},
    }
