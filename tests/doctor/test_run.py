"""The checks at the start of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pefttune import pipeline
from pefttune.errors import DataError
from pefttune.tasks import TextClassification

LONG = "the plot is thin, but the whole cast makes it sparkle from its first minute to the very last one"


def test_warnings_are_told_in_short_and_logged_whole(recipe_of: Any, tmp_path: Path) -> None:
    with (tmp_path / "reviews.jsonl").open("a") as file:
        for i in range(20):
            file.write(json.dumps({"text": LONG + "!" * i, "label": "good"}) + "\n")
    events: list[dict[str, Any]] = []
    pipeline.run(recipe_of({"training.max_steps": 1}), events.append)
    told = {event["check"]: event for event in events if event["event"] == "notice" and "check" in event}
    assert set(told) == {"near-duplicates"}
    assert told["near-duplicates"]["message"].endswith(
        "same but for case, punctuation and spaces (see pefttune doctor)"
    )
    assert " ~ reviews.jsonl:" in told["near-duplicates"]["where"][0]
    kinds = [event["event"] for event in events]
    assert kinds.index("notice") < kinds.index("step")


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_a_run_of_sound_data_says_nothing(recipe_of: Any, approach: str) -> None:
    events: list[dict[str, Any]] = []
    pipeline.run(recipe_of({"training.max_steps": 1, "task.approach": approach}), events.append)
    assert [event for event in events if "check" in event] == []


def test_what_would_train_wrong_stops_the_run_before_it_trains(
    recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TextClassification.encoder

    def endless(self: Any, *arguments: Any, **named: Any) -> Any:
        encode = honest(self, *arguments, **named)
        cut = lambda e: dataclasses.replace(e, answers=tuple(answer[:-1] for answer in e.answers))  # noqa: E731
        return lambda row: tuple(map(cut, encode(row)))

    monkeypatch.setattr(TextClassification, "encoder", endless)
    events: list[dict[str, Any]] = []
    with pytest.raises(DataError, match=r"^no answer is trained with its end \(<\|end\|>\)"):
        pipeline.run(recipe_of(), events.append)
    assert "step" not in {event["event"] for event in events}
    assert not list((tmp_path / "adapters").rglob("*"))
