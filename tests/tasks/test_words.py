"""Words to tokens: which token stands for a word, and windows of long sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune.data import Row
from pefttune.tasks.words import WordEncoder, split

HARD = ["John", "'s", "<|end|>", "[SEP]", "👨‍👩‍👧", "naïve", "हिन्दी", "New York", "東京", "#x", "𝒳", "\u00a0a", "..."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("John lives in Paris.", ["John", "lives", "in", "Paris", "."]),
        ("  Ada's\nmother, (née O) ", ["Ada", "'s", "mother", ",", "(", "née", "O", ")"]),
        ("see http://t.co/0x?y=1, @ada_l #Rome", ["see", "http://t.co/0x?y=1", ",", "@ada_l", "#Rome"]),
        ("the U.S. won 3.50 at x.org...", ["the", "U.S.", "won", "3.50", "at", "x.org", "..."]),
        ("AT&T Jean-Luc", ["AT&T", "Jean-Luc"]),
        ("हिन्दी 👨‍👩‍👧!", ["हिन्दी", "👨‍👩‍👧", "!"]),
        (" \n\t", []),
    ],
)
def test_a_text_is_parted_into_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split(text)] == words


def encoder_of(folder: Path, max_length: int = 512, stride: int = 8, *, causal: bool) -> tuple[WordEncoder, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return WordEncoder(tokenizer, ("a", "b"), max_length, stride, causal=causal), tokenizer


def row(words: list[str], tags: list[str] | None = None) -> Row:
    return Row({"tokens": words} if tags is None else {"tokens": words, "tags": tags}, "f.conll:1")
