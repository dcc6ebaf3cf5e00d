"""Which bases other programs have under which names. Every line is tried by tests/publishing, in the program itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp calls an architecture, and whether its files hold the rows of queries and keys `paired`: those
    that the rotary embedding turns together side by side."""

    name: str
    paired: bool = False


LLAMA_CPP = {
    "llama": Architecture("llama", paired=True),
    "mistral": Architecture("llama", paired=True),
    "smollm3": Architecture("smollm3", paired=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma"),
    "gemma2": Architecture("gemma2"),
    "gemma3_text": Architecture("gemma3"),
    "phi3": Architecture("phi3"),
}
"""By `model_type` of transformers' configuration."""
MLX = ("llama", "mistral", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
"""Those whose linear layers have in mlx-lm the names of transformers."""
