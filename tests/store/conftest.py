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
        "created": "2026-11-23T00:55:59+00:00",
        "recipe": {
            "task": {"type": "text-classification"},
            "data": dict.fromkeys(("source", "test", "revision", "config_name", "max_test_samples", "label_bins"))
            | {"columns": {}},
            "base": {"source": "s"},
            "adapter": {"method": "lora"},
            "evaluation": {"confidence_level": 0.95},
            "output": {"license": None},
        },
        "labels": ["x", "ÿ"],
        "inputs": ["text"],
        "prompt": "",
        "base": {
            "source": "s",
            "hub_id": None,
            "revision": None,
            "origin": "o",
            "dtype": "float32",
            "fingerprint": fingerprint,
        },
        "data": {
            "source": "rows",
            "title": None,
            "licence": None,
            "rows": {"train": 1, "validation": 1, "test": 1},
            "fingerprints": {},
        },
        "parameters": 1,
        "comparison": {
            "rows": 1,
            "primary": "accuracy",
            "shown": {"accuracy": "accuracy"},
            "adapter": {"accuracy": 0.1},
            "others": {"base": {"accuracy": 0.5}},
            "differences": [
                {
                    "against": "base",
                    **dict.fromkeys(("there", "difference", "low", "high", "sign_test_p"), 0.5),
                    **dict.fromkeys(("fixed", "broken"), 1),
                }
            ],
        },
        "head": None,
        "probe": {"rows": [], "scores": []},
        "training": {},
        "versions": {"pefttune": "0.1.0"},
    }
