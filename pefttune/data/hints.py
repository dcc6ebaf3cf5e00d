"""“Did you mean …?”"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence, with a space before it, that offers the nearest of the `known` words; empty when none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def listed(words: Iterable[str]) -> str:
    """The words in backticks, with commas."""
    return ", ".join(f"`{word}`" for word in words)
