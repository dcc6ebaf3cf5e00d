"""The doctor on data sets that others made: what it finds is there. With the tiny base, which reads bytes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pefttune import doctor, pipeline

pytestmark = pytest.mark.shared
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_sms_spam_is_full_of_repetitions(recipe_of: Any) -> None:
    file = DATA / "sms_spam" / "SMSSpamCollection.tsv"
    columns = {"text": "SMS", "label": "Label"}
    recipe = recipe_of({"data.source": str(file), "data.columns": columns, "task.approach": "head"})
    task, rows = pipeline.read_data(recipe)
    found = {}
    for finding in doctor.examine(recipe, task, rows).findings:
        found.setdefault(finding.check, []).append(finding)
    # By other code: texts that are equal once only letters and digits are left.
    repeated = {part: Counter(row.values["text"] for row in getattr(rows, part)) for part in ("train", "test")}
    assert found["duplicates"][0].rows == sum(repeated["train"].values()) - len(repeated["train"]) > 100
    bare = {re.sub(r"[\W_]+", " ", text.casefold()).strip() for text in repeated["train"]}
    again = [text for text in repeated["test"].elements() if re.sub(r"[\W_]+", " ", text.casefold()).strip() in bare]
    told = found["near-duplicates"][-1]
    assert "test rows are nearly" in told.what
    assert told.rows >= len(again) > 10


def test_ag_news_has_the_same_news_twice(recipe_of: Any) -> None:
    changes = {"data.source": None, "data.train": str(DATA / "ag_news" / "test.csv")}
    changes |= {"data.column_names": ["label", "title", "text"], "task.approach": "head"}
    recipe = recipe_of(changes)
    findings = doctor.examine(recipe, *pipeline.read_data(recipe)).findings
    pairs = [set(pair.split(" ~ ")) for each in findings if each.check == "near-duplicates" for pair in each.where]
    assert len(pairs) >= 5
    lines = (DATA / "ag_news" / "test.csv").read_text(encoding="utf-8").splitlines()
    for pair in pairs:
        one, other = (set(re.findall(r"\w+", lines[int(origin.split(":")[1]) - 1])) for origin in sorted(pair))
        assert len(one & other) > 0.5 * len(one | other)
