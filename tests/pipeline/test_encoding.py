"""What is told of rows that a limit cuts: which limit, how many rows, what becomes of them, and the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune import tasks
from pefttune.data import Row
from pefttune.errors import DataError
from pefttune.pipeline.encoding import encode

ROWS = [
    Row({"document": "a short one", "summary": ["short"]}, "row 1"),
    Row({"document": "a short one", "summary": ["a summary that is far longer than five tokens"]}, "row 2"),
    Row({"document": "a long one" * 20, "summary": ["long"]}, "row 3"),
]
TEXTS = "1 of 3 training rows do not fit data.max_length = 100 tokens"
ANSWERS = "1 of 3 training rows have an answer longer than task.max_new_tokens = 10 tokens"


@pytest.fixture
def encoded(recipe_of: Any, tiny: Path) -> Any:
    def encode_with(policy: str) -> tuple[list[str], list[str]]:
        recipe = recipe_of(
            {
                "task": {"type": "summarization", "max_new_tokens": 10, "min_new_tokens": 0},
                "data.max_length": 100,
                "data.too_long": policy,
            }
        )
        encoder = tasks.get(recipe.task).encoder(AutoTokenizer.from_pretrained(tiny), 100, causal=True)
        told: list[str] = []
        kept = encode(recipe, encoder, ROWS, "training", lambda event: told.append(event["message"]))
        return told, [each[0].origin for each in kept]

    return encode_with


@pytest.mark.parametrize(("policy", "lost"), [("truncate", "lose their end"), ("drop", "are dropped")])
def test_a_cut_answer_is_not_told_as_a_long_text(encoded: Any, policy: str, lost: str) -> None:
    told, kept = encoded(policy)
    end = "A higher limit keeps them whole"
    assert sorted(told) == [f"{TEXTS}; they {lost}: row 3. {end}", f"{ANSWERS}; they {lost}: row 2. {end}"]
    assert kept == (["row 1"] if policy == "drop" else ["row 1", "row 2", "row 3"])


def test_a_cut_answer_stops_the_run_where_that_is_asked_for(encoded: Any) -> None:
    with pytest.raises(DataError) as raised:
        encoded("error")
    assert str(raised.value) in {
        f"{told}: {row}. Raise the limit, or set data.too_long to truncate or drop"
        for told, row in ((TEXTS, "row 3"), (ANSWERS, "row 2"))
    }
