"""A task of several columns on the command line."""

from __future__ import annotations

import shlex
from typing import Any

import pytest


@pytest.mark.usefixtures("_fresh_accelerate")
def test_the_command_that_is_told_at_the_end_works(command: Any, trained: Any) -> None:
    rows = [
        {
            "question": f"What is number {number}?",
            "context": f"In passage {number // 4} it is red.",
            "answers": {"text": ["red"], "answer_start": [len(f"In passage {number // 4} it is ")]},
        }
        for number in range(40)
    ]
    done = trained("{type: question-answering, stride: 8}", rows)
    assert "rows with the same context stay in one part: 20 train, 8 validation, 12 test" in done.err
    [told] = [line for line in done.out.splitlines() if line.startswith("use it: ")]
    program, *arguments = shlex.split(told.removeprefix("use it: "))
    assert (program, arguments) == ("pefttune", ["predict", "mine", "question=…", "context=…"])
    assert command(*arguments).code == 0
