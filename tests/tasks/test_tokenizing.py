"""Threads of a session share its tokenizer, and none gets what another one asked it for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pefttune import tasks
from pefttune.data import Row
from pefttune.recipe import tasks as sections

ROW = Row({"text": "a fine film <|user|> of them"}, "row 1")


class Interrupted:
    """The inner part of a fast tokenizer; another thread has its turn between a call's settings and its tokens."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        if name == "encode_batch":
            time.sleep(0.001)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


def test_a_prompt_made_beside_a_thread_that_reads_texts_keeps_its_special_tokens(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer._tokenizer = Interrupted(tokenizer._tokenizer)
    section = sections.TextClassification(type="text-classification", labels=("bad", "good"))

    def encoder() -> tasks.Encoder:
        return tasks.encoder_of(tasks.get(section), tokenizer, 256, causal=True, encoder_decoder=False)

    reading = encoder()
    alone = reading(ROW)
    with ThreadPoolExecutor(1) as other:
        read = other.submit(lambda: [reading(ROW) for _ in range(50)])
        made = [encoder() for _ in range(20)]
    assert read.result() == [alone] * 50
    assert [each(ROW) for each in made] == [alone] * 20
