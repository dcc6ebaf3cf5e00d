"""Sweeps on the tiny model: who is trained, with whom, for how long; what is kept, and what goes on after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttune
from pefttune import bases, pipeline
from pefttune.errors import InputError, TrainingError
from pefttune.inference import Session
from pefttune.pipeline import Bench, Failed, Tried
from pefttune.recipe import load_recipe, read_choices, variants
from pefttune.sweep import Sweep, searcher, sweep

NINTH, THIRD, ALL = Fraction(1, 9), Fraction(1, 3), Fraction(1)
QUICK = ["training.max_steps=18", "evaluation.bootstrap_samples=100"]
# Rates so low that nothing is learned, and one that learns.
FOUR = ["adapter.r=2,4", "training.learning_rate=1e-7,2e-2"]


@pytest.fixture
def swept(recipe_of: Any, tmp_path: Path) -> Callable[..., Sweep]:
    def run(words: Sequence[str] = FOUR, folder: str = "runs", events: list[Any] | None = None, **how: Any) -> Sweep:
        choices = read_choices([*QUICK, f"output.runs={tmp_path / folder}", *words])
        found = variants(recipe_of.path, choices)
        notify = (lambda event: None) if events is None else events.append
        return sweep(found, searcher("grid", found, choices, None, 0), notify, **how)

    return run


def told(found: Sweep) -> list[Any]:
    """All but what is measured anew each time."""
    document = found.told()
    for trial in document["trials"]:
        for rung in trial["rungs"]:
            del rung["seconds"], rung["peak_mib"]
    return document


def test_the_best_goes_on_and_its_last_training_is_that_of_its_recipe(swept: Callable[..., Sweep]) -> None:
    found = swept()
    assert found.metric == "accuracy"
    assert [len(trial.results) for trial in found.trials] == [3, 2, 1, 1]
    for share, going in ((NINTH, 2), (THIRD, 1)):
        metrics = [trial.results[share].metric for trial in found.trials if share in trial.results]
        assert min(metrics[:going]) >= max(metrics[going:])
    assert [result.steps for result in found.best.results.values()] == [2, 6, 18]
    events: list[dict[str, Any]] = []
    run = pipeline.run(load_recipe(found.recipe), events.append)
    kept = run.manifest["training"]["best_step"]
    [metric] = [one["accuracy"] for one in events if one["event"] == "evaluation" and one["step"] == kept]
    assert found.best.last.metric == metric


def test_what_is_left_in_the_folder(swept: Callable[..., Sweep]) -> None:
    found = swept()
    document = json.loads((found.folder / "sweep.json").read_text(encoding="utf-8"))
    assert document == found.told()
    assert {path.name for path in found.folder.iterdir()} == {
        *("best.yaml", "dtypes.json", "figure.png", "log.jsonl", "sweep.json", "table.md", "trials.jsonl")
    }
    lines = (found.folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("| trial | r | learning_rate | steps | accuracy | parameters |")
    assert len([line for line in lines if line.startswith("|")]) == 6
    assert (found.folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_sweep_elsewhere_gives_the_same(swept: Callable[..., Sweep]) -> None:
    one, other = swept(folder="one"), swept(folder="other")
    assert one.folder != other.folder
    assert told(one) == told(other)


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.timeout(300)
def test_trials_on_ray_come_to_the_same(swept: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from pefttune.sweep.on_ray import HERE, on_ray

    monkeypatch.setenv("PYTHONPATH", str(Path(pefttune.__file__).parents[1]))  # a worker is not told where pytest is
    words = ["adapter.r=2,4", "training.learning_rate=2e-2"]
    with on_ray(HERE) as train:
        there = swept(words, folder="there", train=train, apart=True)
    assert told(there) == told(swept(words, apart=True))


def test_a_ray_that_cannot_begin_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from pefttune.sweep.on_ray import HERE, on_ray

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Version mismatch: the cluster was started with another Ray")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(InputError, match="--ray local: Ray does not begin: Version mismatch"), on_ray(HERE):
        pass


def test_no_test_row_is_there_to_be_looked_at(swept: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    seen, honest = [], pipeline.trying.fit

    def fit(session: Any, lines: Any) -> Any:
        seen.extend(line.rows.test for line in lines)
        return honest(session, lines)

    monkeypatch.setattr(pipeline.trying, "fit", fit)
    swept()
    assert seen == [()] * 7


class Killed(BaseException):
    pass


def test_a_killed_sweep_goes_on_where_it_was(swept: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, honest = swept(folder="whole"), Bench.train
    trained: list[list[str]] = []

    def counted(self: Bench, recipes: Any, notify: Any) -> Any:
        trained.append([recipe.output.name for recipe in recipes])
        if len(trained) == 2:
            raise Killed
        return honest(self, recipes, notify)

    monkeypatch.setattr(Bench, "train", counted)
    with pytest.raises(Killed):
        swept()
    assert len(trained[0]) == 4
    again = swept()
    assert [len(names) for names in trained] == [4, 2, 2, 1]  # killed, then again, but for what was known
    expected = told(whole)
    assert told(again) == expected
    assert told(swept()) == expected
    assert len(trained) == 4  # all is known


def test_those_that_can_share_their_passes(swept: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    honest, passes = Session.losses, []

    def noting(self: Session, batches: Any) -> Any:
        passes.append(tuple(name for name, _ in batches))
        return honest(self, batches)

    monkeypatch.setattr(Session, "losses", noting)
    words = ["adapter.method=lora,ia3", "adapter.r=2,4", "training.max_batch_tokens=4000"]
    found = swept(words)
    assert passes[:4] == [("trial-1", "trial-2")] * 4
    together = {trial.number: trial.results[THIRD].together for trial in found.trials}
    assert together == {1: 2, 2: 2, 3: 1}
    assert {trial.number: trial.shared for trial in found.trials} == {1: True, 2: True, 3: False}
    passes.clear()
    assert not any(trial.shared for trial in swept(words, apart=True).trials)
    assert all(len(names) == 1 for names in passes)


def test_a_base_is_loaded_once_in_a_rung(swept: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    honest, loaded = bases.load, []

    def load(config: Any, *about: Any) -> Any:
        loaded.append(config.dtype)
        return honest(config, *about)

    monkeypatch.setattr(bases, "load", load)
    swept(["base.dtype=float32,bfloat16", "adapter.r=2,4"])
    assert loaded[:2] == ["float32", "bfloat16"]
    assert len(loaded) <= 4
    loaded.clear()
    swept(["training.max_batch_tokens=100,4000"])
    assert loaded == ["float32"]


def test_the_dtype_is_measured_once(swept: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured anew, another one may win, and trials would not be alike."""
    measured = iter([(torch.float32, ""), (torch.bfloat16, "")])
    monkeypatch.setattr("pefttune.bases.machine.choose_dtype", lambda wanted, device: next(measured))
    honest, loaded = bases.load, []

    def load(config: Any, *about: Any) -> Any:
        loaded.append(config.dtype)
        return honest(config, *about)

    monkeypatch.setattr(bases, "load", load)
    words = ["base.dtype=auto", "adapter.r=2,4"]
    found = swept(words)
    (found.folder / "trials.jsonl").unlink()
    assert told(swept(words)) == told(found)
    assert set(loaded) == {"float32"}
    assert load_recipe(found.recipe).base.dtype == "float32"


def test_one_that_fails_is_told_and_dropped(swept: Callable[..., Sweep]) -> None:
    events: list[dict[str, Any]] = []
    found = swept(["adapter.r=2,4", "training.learning_rate=2e-2,1e38"], events=events)
    failed = [trial for trial in found.trials if isinstance(trial.last, Failed)]
    assert {trial.variant.settings["training.learning_rate"] for trial in failed} == {"1e38"}
    assert [len(trial.results) for trial in failed] == [1, 1]
    assert all("the loss is nan" in trial.last.reason for trial in failed)
    assert len([event for event in events if event["event"] == "trial" and "failed" in event]) == 2
    assert isinstance(found.best.last, Tried)
    assert found.best.share == ALL
    assert "trial 2 failed: trial-2, step 2: the loss is nan" in (found.folder / "table.md").read_text(encoding="utf-8")


def test_a_method_that_the_base_does_not_take_is_dropped(swept: Callable[..., Sweep]) -> None:
    found = swept(["adapter.method=lora,oft", "adapter.oft_block_size=7"])
    reason = "adapter.oft_block_size: blocks of 7 do not divide the 32 inputs of model.layers.0.self_attn.q_proj"
    assert found.trials[-1].last.reason.startswith(reason)
    assert found.best.variant.settings == {"adapter.method": "lora"}


def test_where_all_fail_the_sweep_says_why(swept: Callable[..., Sweep]) -> None:
    with pytest.raises(TrainingError) as raised:
        swept(["adapter.method=oft", "adapter.oft_block_size=7,5"])
    first, *others = str(raised.value).splitlines()
    assert first == "all 2 trials have failed"
    assert others[0].startswith("adapter.oft_block_size=7: adapter.oft_block_size: blocks of 7 do not divide")
    assert len(others) == 2


def test_progress_comes_to_its_end(swept: Callable[..., Sweep]) -> None:
    events: list[dict[str, Any]] = []
    found = swept(events=events)
    told = [event for event in events if event["event"] == "sweep"]
    assert all(after["done"] > before["done"] - 1e-9 for before, after in pairwise(told))  # sums of floats
    assert told[-1]["done"] == pytest.approx(told[-1]["of"]) == pytest.approx(4 / 9 + 2 / 3 + 1)
    assert max(one["examples_a_second"] for one in told) > 0
    shown = [event for event in events if event["event"] == "trial"]
    assert [event["share"] for event in shown] == ["1/9"] * 4 + ["1/3"] * 2 + ["1"]
    assert shown[-1]["trial"] == found.best.number
    assert not [event for event in events if event["event"] == "notice" and "test row" in event["message"]]
    assert {event["event"] for event in events} <= {"data", "base", "sweep", "trial", "notice", "frozen"}
