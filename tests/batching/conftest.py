"""Small bases of several architectures, and one adapter on each that does something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 5},
    "Gemma3Text": {"head_dim": 8, **WINDOWS},
    "Bert": {"num_key_value_heads": 4},
}


@pytest.fixture(scope="session")
def model_of() -> Any:
    """A random model: `model_of("Qwen3")`, `model_of("Mistral", sliding_window=4)`."""
    import torch
    import transformers

    def make(kind: str, **changes: Any) -> Any:
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(
            **{"vocab_size": 261, **SMALL, **KINDS.get(kind, {}), **changes}
        )
        model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:  # fresh weights are so small that every model looks alike
                parameter.data.normal_(std=0.2)
        return model

    return make


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
