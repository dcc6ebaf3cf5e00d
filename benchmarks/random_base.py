"""Bases of any shape with random weights: speed does not ask what a model knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SEED = 0


def write(folder: Path, config: dict[str, Any], tokenizer_from: Path, cuda: bool = False) -> Path:
    """A base of that configuration in bfloat16, with the tokenizer of another one, whose ids it must hold."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    settings = {**config, **ids, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(SEED)
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings), dtype=torch.bfloat16
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
