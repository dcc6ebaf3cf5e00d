"""Who proposes what: nothing twice, the same again, and what Optuna is told."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pefttune.pipeline import Failed, Tried
from pefttune.recipe import Variant, read_choices, variants
from pefttune.sweep import Searcher, Trial, searcher

RECIPE = "task: {type: text-classification}\ndata: {source: a.csv}\noutput: {name: x}\n"
WORDS = ["adapter.method=lora,ia3", "adapter.r=1,2,4,8,16", "training.learning_rate=1e-5,1e-4,1e-3,1e-2"]
NINTH, ALL = Fraction(1, 9), Fraction(1)


@pytest.fixture
def proposing() -> Callable[..., Searcher]:
    def make(kind: str, trials: int, seed: int = 0) -> Searcher:
        Path("x.yaml").write_text(RECIPE, encoding="utf-8")
        choices = read_choices(WORDS)
        return searcher(kind, variants("x.yaml", choices), choices, trials, seed)

    return make


def good(variant: Variant) -> float:
    """The higher the rank and the rate, the better."""
    return 0.05 * int(variant.settings.get("adapter.r", 0)) * float(variant.settings["training.learning_rate"]) ** 0.1


def proposed(chooser: Searcher) -> list[list[Variant]]:
    """All that it proposes, told how good each is: of each bracket one goes to the end, and one has failed."""
    found = []
    for size in chooser.sizes:
        batch = chooser.ask(size)
        trials = [Trial(number, variant) for number, variant in enumerate(batch, start=1)]
        for trial in trials:
            trial.results[NINTH] = Tried(good(trial.variant), 1, 1, 1.0, 1.0, 1)
        best = max(trials, key=lambda trial: good(trial.variant))
        best.results[ALL] = best.results[NINTH]
        trials[0].results[NINTH] = Failed("for want of luck")
        chooser.tell(trials)
        found.append(batch)
    return found


def test_chance_is_seeded_and_proposes_nothing_twice(proposing: Callable[..., Searcher]) -> None:
    [one], [same], [other] = (proposed(proposing("random", 12, seed)) for seed in (0, 0, 1))
    assert len({str(variant) for variant in one}) == 12
    assert one == same != other


def test_optuna_proposes_nothing_twice_and_the_same_again(proposing: Callable[..., Searcher]) -> None:
    pytest.importorskip("optuna")
    one, same = (proposed(proposing("optuna", 24)) for _ in range(2))
    assert [len(batch) for batch in one] == [9, 9, 6]
    assert len({str(variant) for batch in one for variant in batch}) == 24  # of 24: also the last is found
    assert one == same


def test_optuna_learns_from_what_came_of_its_proposals(proposing: Callable[..., Searcher]) -> None:
    pytest.importorskip("optuna")
    better = 0
    for seed in range(5):
        first, *_, last = proposed(proposing("optuna", 18, seed))
        mean = [sum(map(good, batch)) / len(batch) for batch in (first, last)]
        better += mean[1] > mean[0]
    assert better >= 4  # by chance alone, 19 % of the time
    assert isinstance(first[0], Variant)


def test_optuna_hears_who_was_stopped_who_failed_and_who_came_to_the_end(proposing: Callable[..., Searcher]) -> None:
    pytest.importorskip("optuna")
    chooser: Any = proposing("optuna", 9)
    proposed(chooser)
    states = [trial.state.name for trial in chooser._study.trials]
    assert (states.count("COMPLETE"), states.count("PRUNED")) == (1, 7)
    assert all(set(trial.intermediate_values) == {1} for trial in chooser._study.trials if trial.state.name == "PRUNED")
