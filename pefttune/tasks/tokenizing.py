"""Calls of a tokenizer that several threads share."""

from __future__ import annotations

import threading
from typing import Any

# Of all tokenizers. A fast one keeps what a call asks for, such as `split_special_tokens`, until another call asks
# otherwise: beside a thread that reads texts, one that loads an adapter would have its prompt's special tokens spelled
# out.
ONE_AT_A_TIME = threading.Lock()


def tokenized(tokenizer: Any, *texts: str, **how: Any) -> Any:
    """`tokenizer(*texts, **how)`, with nothing in it that another thread asks for."""
    with ONE_AT_A_TIME:
        return tokenizer(*texts, **how)
