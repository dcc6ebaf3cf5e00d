"""A probe of the real film reviews on the real MiniLM: real labels transfer, the same labels shuffled do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.transfer import without_meaning
from pefttune import pipeline
from pefttune.recipe import load_recipe

pytestmark = pytest.mark.real
ENCODER = ["task.approach=head", "base.source=minilm-l6", "base.quantization=none", "adapter.layers=null"]


def test_real_labels_transfer_and_those_dealt_anew_do_not(tmp_path: Path) -> None:
    recipe = load_recipe("film-sentiment", [*ENCODER, f"output.runs={tmp_path}/runs"])
    for asked, transfers in ((recipe, True), (without_meaning(recipe, tmp_path / "rows.jsonl", seed=0), False)):
        report = pipeline.probe(asked).report
        assert report.transfers is transfers
        assert transfers != any("will not transfer" in warning for warning in report.warnings)
