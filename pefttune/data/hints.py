"""Words of a message: “Did you mean …?”, lists, and values that may be long."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

SHOWN = 60  # characters of a value that a message shows


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence, with a space before it, that offers the nearest of the `known` words; empty when none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def listed(words: Iterable[str]) -> str:
    """The words in backticks, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def unparted(columns: Sequence[str]) -> str:
    """A sentence, with a space before it, where the name of the only column looks like several; else empty."""
    if len(columns) != 1 or not set(columns[0]) & set(";,\t"):
        return ""
    return " If that is more than one column, part the fields with commas in a .csv file, with tabs in a .tsv file."


def shortened(value: Any) -> str:
    """The value as Python writes it, cut where it is long."""
    told = repr(value)
    return told if len(told) <= SHOWN else f"{told[:SHOWN]}…"
