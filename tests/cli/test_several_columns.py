"""A task of several columns on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("_fresh_accelerate")
def test_the_command_that_is_told_at_the_end_works(command: Any, tiny: Path, tmp_path: Path) -> None:
    rows = [
        {
            "question": f"What is number {number}?",
            "context": f"In passage {number // 4} it is red.",
            "answers": {"text": ["red"], "answer_start": [len(f"In passage {number // 4} it is ")]},
        }
        for number in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "task: {type: question-answering, stride: 8}\n"
        f"base: {{source: {tiny}, quantization: none, dtype: float32, device: cpu}}\n"
        f"data: {{source: {tmp_path}/train.jsonl, split: {{validation: 0.2, test: 0.3}}}}\n"
        "adapter: {method: lora, r: 4}\n"
        "training: {max_steps: 1}\n"
        "output: {name: qa}\n",
        encoding="utf-8",
    )
    done = command("train", "recipe.yaml")
    assert done.code == 0
    assert "rows with the same context stay in one part: 20 train, 8 validation, 12 test" in done.err
    [told] = [line for line in done.out.splitlines() if line.startswith("use it: ")]
    program, *arguments = shlex.split(told.removeprefix("use it: "))
    assert (program, arguments) == ("pefttune", ["predict", "qa", "question=…", "context=…"])
    assert command(*arguments).code == 0
