"""A number that is predicted has no confidence, and none is shown."""

from __future__ import annotations

import re
from typing import Any

import pytest


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_number_is_shown_without_a_confidence(command: Any, trained: Any) -> None:
    rows = [{"text": f"{'good ' * (i % 5)}film {i}", "label": i % 5} for i in range(40)]
    trained("{type: text-classification, approach: head, problem_type: regression}", rows)
    [line] = command("predict", "mine", "a fine film").out.splitlines()
    number = re.fullmatch(r"(-?[\d.e-]+) +a fine film", line)
    assert number, line
    [told] = command("predict", "mine", "a fine film", "--json").document["predictions"]
    assert f"{told['prediction']:.4g}" == number[1]
    assert told["confidence"] is None
