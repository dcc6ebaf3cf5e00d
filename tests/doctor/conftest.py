"""Cases: rows by part, encoded by the task itself or by an encoder that does something wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune import tasks
from pefttune.data import Example, Row
from pefttune.doctor import Case, Finding
from pefttune.recipe import tasks as sections

TEXTS = [("a fine film", "good"), ("dull and cold", "bad"), ("bright", "good"), ("poor", "bad")]


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture
def rows_of() -> Callable[..., list[Row]]:
    """Rows of (text, label): `rows_of([("a", "x")], "test.csv")`."""

    def make(pairs: Sequence[tuple[str, str]], file: str = "train.csv") -> list[Row]:
        return [Row({"text": text, "label": label}, f"{file}:{i}") for i, (text, label) in enumerate(pairs, start=1)]

    return make


@pytest.fixture
def case_of(tokenizer: Any, rows_of: Any) -> Callable[..., Case]:
    """`case_of(train, test)`, or with another tokenizer, labels, or `changed(example) → example`."""

    def make(
        train: Sequence[tuple[str, str]] = TEXTS,
        test: Sequence[tuple[str, str]] = (),
        *,
        tokenizer: Any = tokenizer,
        changed: Callable[[Example], Example] | None = None,
        max_length: int = 256,
        labels: tuple[str, ...] = ("bad", "good"),
        **section: Any,
    ) -> Case:
        task = tasks.get(sections.TextClassification(type="text-classification", labels=labels, **section))
        encoder: Any = task.encoder(tokenizer, max_length, causal=True)
        if changed is not None:
            honest = encoder
            encoder = lambda row: tuple(map(changed, honest(row)))  # noqa: E731
        rows = {"train": rows_of(train)} | ({"test": rows_of(test, "test.csv")} if test else {})
        examples = {part: [each for row in own for each in encoder(row)] for part, own in rows.items()}
        return Case(task, tokenizer, encoder, rows, examples)

    return make


@pytest.fixture
def only() -> Callable[..., Finding]:
    """The one finding of a check: `only(check_end, case)`."""

    def run(check: Callable[[Case], Any], case: Case) -> Finding:
        [finding] = check(case)
        return finding

    return run
