"""Files to predict may have a column in any form that training data may have it in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_question_is_the_same_in_every_form(command: Any, trained: Any, tmp_path: Path) -> None:
    rows = [{"instruction": f"Name {number}", "output": "sun"} for number in range(12)]
    done = trained("{type: text-generation, max_new_tokens: 8}", rows)
    assert re.search(r"^validation after step 1: log_likelihood -\d\.\d{3}$", done.err, re.M), "no share, no percent"
    assert "writing with adapter" in done.err
    forms: list[dict[str, Any]] = [
        {"instruction": "Name it", "input": "sun"},
        {"question": "Name it\nsun"},
        {"messages": "Name it\nsun"},
        {"messages": [{"role": "user", "content": "Name it\nsun"}]},
        {"messages": [{"role": "user", "content": "Name it\nsun"}, {"role": "assistant", "content": "sun"}]},
    ]
    (tmp_path / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in forms), encoding="utf-8")
    predicted = command("predict", "mine", "--input", "ask.jsonl", "--json").document["predictions"]
    [plain] = command("predict", "mine", "Name it\nsun", "--json").document["predictions"]
    assert [row["prediction"] for row in predicted] == [plain["prediction"]] * 5
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n{"question": ["b"]}\n', encoding="utf-8")
    done = command("predict", "mine", "--input", "bad.jsonl")
    assert "bad.jsonl:2: question must be text, not [" in done.err
