"""How many tokens a base reads: of one text, and at once."""

from __future__ import annotations

from typing import Any

import torch

from pefttune.errors import DataError

# Products of so many rows run at full speed on a processor, and more rows would only need more memory (docs/LOG.md).
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_GPU = 640, 16_384


def tokens_at_once(device: torch.device) -> int:
    """How many tokens go through a base on this device in one pass."""
    return TOKENS_AT_ONCE_ON_GPU if device.type == "cuda" else TOKENS_AT_ONCE


def check_length(model: Any, max_length: int, called: str) -> None:
    """Raise DataError, with what the limit is called, when the model has no positions for so many tokens."""
    positions = positions_of(model)
    if positions is not None and max_length > positions:
        raise DataError(f"{called}: {max_length} tokens are more than this base reads; it has {positions}")


def positions_of(model: Any) -> int | None:
    """How many tokens of a text the model has positions for; None where there is no end to them. RoBERTa and its kin
    count from behind the padding token's."""
    most: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None) or None
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(table, "padding_idx", None)
    if most is None or padding is None:
        return most
    return most - padding - 1
