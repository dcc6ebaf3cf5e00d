"""The doctor on the shipped recipes, with the tokenizers of the embedded bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pefttune import doctor, pipeline
from pefttune.recipe import load_recipe

pytestmark = pytest.mark.real
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*-sentiment.yaml"))


def examined(path: Path, *changes: str) -> doctor.Report:
    recipe = load_recipe(path, list(changes))
    return doctor.examine(recipe, *pipeline.read_data(recipe))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_has_no_error_and_trains_the_end(path: Path) -> None:
    report = examined(path)
    assert report.counts["error"] == 0
    for shown in report.shown:
        trained = [token.text for token in shown.tokens if token.role == "trained"]
        assert ("".join(trained[:-1]) in ("negative", "positive"), trained[-1]) == (True, "<|im_end|>")


def test_tweets_that_were_written_again_in_capitals() -> None:
    """The README's figure."""
    [path] = [path for path in RECIPES if path.stem == "tweet-sentiment"]
    near = [finding for finding in examined(path).findings if finding.check == "near-duplicates"]
    assert near[1].what.startswith("27 of 516 test rows are nearly training or validation rows, 27 of them the same")
    assert near[1].where[1] == "tweets.tsv:136 ~ tweets.tsv:1458"  # “That was FUN. I LIKE winning at trivia”


def test_an_encoder_base() -> None:
    """BERT's begin token is drawn with its class, and 512 positions are the most."""
    changes: tuple[Any, ...] = ("base.source=minilm-l6", "base.quantization=none", "task.approach=head")
    report = examined(RECIPES[0], *changes, "data.max_length=513")
    assert [finding.check for finding in report.findings if finding.level == "error"] == ["beyond-positions"]
    first = report.shown[0].tokens
    assert (first[0].text, first[0].role, first[-1].text.strip()) == ("[CLS]", "mark", "[SEP]")
