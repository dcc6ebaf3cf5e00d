"""A probe of the real film reviews on the real MiniLM: real labels transfer, the same labels shuffled do not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pefttune import pipeline
from pefttune.recipe import load_recipe

pytestmark = pytest.mark.real
ENCODER = ["task.approach=head", "base.source=minilm-l6", "base.quantization=none", "adapter.layers=null"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_shuffled_labels_will_not_transfer(tmp_path: Path, shuffled: bool) -> None:
    recipe = load_recipe("film-sentiment", [*ENCODER, f"output.runs={tmp_path}/runs"])
    _, data = pipeline.read_data(recipe)
    labels = [str(row.values["label"]) for row in data.train]
    if shuffled:
        random.Random(0).shuffle(labels)
    rows = tmp_path / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for row, label in zip(data.train, labels, strict=True):
            file.write(json.dumps({"text": row.values["text"], "label": label}) + "\n")
    own = [f"data.source={rows}", "data.columns={}", "data.label_bins=null"]
    report = pipeline.probe(load_recipe("film-sentiment", [*ENCODER, *own, f"output.runs={tmp_path}/runs"])).report
    assert report.transfers is not shuffled
    assert shuffled == any("will not transfer" in warning for warning in report.warnings)
