"""Several recipes on one resident base, and what a budget of tokens and the cache of frozen layers change: nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pefttune import evaluation, pipeline, store
from pefttune.errors import NonFiniteError, RecipeError, StorageError, VerificationError
from pefttune.inference import Session, open_session
from pefttune.methods import weights

QUICK = {"training.max_steps": 4, "training.eval_steps": 2, "evaluation.bootstrap_samples": 100}
HEAD = {"task.approach": "head", "output.name": "other", "adapter.r": 2, "training.learning_rate": 2e-3, "seed": 5}
# float32: the same sums in passes of other height; AdamW divides each gradient by its own size, so that what nearly
# cancels out moves on its rounding. Measured against the largest weight that moved.
ORDER_OF_SUMS = 1e-3


@pytest.fixture
def quick(recipe_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    return lambda changes=None: recipe_of({**QUICK, **(changes or {})})


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / weights.WEIGHTS)


def assert_near(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert (one[key] - other[key]).norm() <= ORDER_OF_SUMS * other[key].norm(), key


def steps(events: list[dict[str, Any]], run: str | None = None) -> list[float]:
    return [event["loss"] for event in events if event["event"] == "step" and event.get("run") == run]


def test_two_recipes_become_what_each_becomes_alone(quick: Any, tmp_path: Path) -> None:
    recipes, events = [quick(), quick(HEAD)], []
    runs = pipeline.run_together(recipes, events.append)
    assert [run.folder for run in runs] == [tmp_path / "adapters" / name / "1" for name in ("tiny", "other")]
    for recipe, run, name in zip(recipes, runs, ("tiny", "other"), strict=True):
        manifest = store.read_manifest(run.folder)
        assert manifest["name"] == name
        assert manifest["recipe"]["task"]["approach"] == recipe.task.approach
        session = open_session(name, tmp_path / "adapters")
        evaluation.verify(session, name, manifest["probe"])
        alone_events: list[dict[str, Any]] = []
        alone = pipeline.run(
            recipe.model_copy(update={"output": recipe.output.model_copy(update={"store": str(tmp_path / "alone")})}),
            alone_events.append,
        )
        assert_near(tensors(run.folder), tensors(alone.folder))
        assert steps(events, name) == pytest.approx(steps(alone_events), rel=1e-4)
        assert run.comparison.adapter["accuracy"] == alone.comparison.adapter["accuracy"]
        assert all("run" not in event for event in alone_events)


def test_each_event_says_whose_it_is_and_stands_in_that_log_only(quick: Any) -> None:
    events: list[dict[str, Any]] = []
    runs = pipeline.run_together([quick(), quick(HEAD)], events.append)
    assert {event["run"] for event in events} == {"tiny", "other"}
    for run in runs:
        name = run.manifest["name"]
        mine = [event["event"] for event in events if event["run"] == name]
        logged = (run.run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["event"] for line in logged] == mine
        for kind in ("data", "base", "step", "evaluation", "memory", "comparison", "verifying", "stored"):
            assert kind in mine
        assert (run.run_folder / "recipe.yaml").is_file()
        assert (run.run_folder / "comparison.json").is_file()


def test_both_act_in_one_pass(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pefttune.inference import Session

    honest, together = Session.losses, []

    def noting(self: Session, batches: Any) -> Any:
        together.append([name for name, _ in batches])
        return honest(self, batches)

    monkeypatch.setattr(Session, "losses", noting)
    roomy = {"training.max_batch_tokens": 4000}
    pipeline.run_together([quick(roomy), quick({**HEAD, **roomy})])
    assert together == [["tiny", "other"]] * 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "two of the recipes make an adapter 'tiny': give each its own output.name"),
        (
            {"output.name": "other", "base.dtype": "bfloat16"},
            "other and tiny have different `base` sections; together they need the same",
        ),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused_before_anything_is_done(
    quick: Any, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(RecipeError) as raised:
        pipeline.run_together([quick(), quick(changes)], events.append)
    assert str(raised.value) == told
    assert events == []
    assert not (tmp_path / "adapters").exists()
    assert not (tmp_path / "runs").exists()


def test_the_recipe_whose_loss_is_not_finite_is_named(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Session.losses

    def spoiled(session: Session, batches: Any) -> list[torch.Tensor]:
        losses = honest(session, batches)
        return [
            loss * (float("nan") if name == "other" else 1) for (name, _), loss in zip(batches, losses, strict=True)
        ]

    monkeypatch.setattr(Session, "losses", spoiled)
    with pytest.raises(NonFiniteError, match=r"^other, step 1: the loss is nan"):
        pipeline.run_together([quick(), quick(HEAD)])


def test_where_one_was_saved_wrong_none_is_stored(quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = evaluation.verify

    def verify(session: Any, name: str, probe: Any) -> None:
        honest(session, name, probe)
        if name == "other":
            raise VerificationError("it is another one")

    monkeypatch.setattr(evaluation, "verify", verify)
    with pytest.raises(VerificationError):
        pipeline.run_together([quick(), quick(HEAD)])
    assert list((tmp_path / "adapters").rglob("*.safetensors")) == []


def test_where_one_cannot_be_stored_none_is(quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, stored = store.commit, []

    def commit(staging: Path) -> Path:
        if stored:
            raise StorageError("the disk is full")
        stored.append(honest(staging))
        return stored[0]

    monkeypatch.setattr(store, "commit", commit)
    with pytest.raises(StorageError):
        pipeline.run_together([quick(), quick(HEAD)])
    assert stored
    assert list((tmp_path / "adapters").rglob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training.max_batch_tokens": 64}, "different training.max_batch_tokens"),
        ({"training.report_to": ["wandb"]}, "wandb holds one run in a process"),
    ],
)
def test_what_cannot_be_shared_is_told(quick: Any, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        pipeline.run_together([quick(), quick({**HEAD, **changes})])
    assert not (tmp_path / "adapters").exists()


def test_a_budget_of_one_token_is_told_and_changes_nothing(quick: Any, tmp_path: Path) -> None:
    found = {}
    for budget in (1, 100_000):
        events: list[dict[str, Any]] = []
        found[budget] = pipeline.run(quick({"training.max_batch_tokens": budget}), events.append), events
    told = [event["message"] for event in found[1][1] if event["event"] == "notice"]
    assert len(told) == 1
    assert "training rows are longer than a batch of 1 tokens and get one of their own: reviews.jsonl:" in told[0]
    assert not [event for event in found[100_000][1] if event["event"] == "notice"]
    assert steps(found[1][1]) == pytest.approx(steps(found[100_000][1]), rel=1e-4)
    assert_near(tensors(found[1][0].folder), tensors(found[100_000][0].folder))


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_the_cache_of_frozen_layers_changes_nothing_and_serves_again(quick: Any, approach: str) -> None:
    top = {"adapter.layers": "top-1", "task.approach": approach, "training.max_batch_tokens": 100_000}
    folder, found = Path(os.environ["PEFTTUNE_CACHE"]) / "boundaries", []
    for cached in (False, True, True):
        events: list[dict[str, Any]] = []
        run = pipeline.run(quick({**top, "training.cache_frozen_layers": cached}), events.append)
        frozen = [(event["what"], event["done"], event["of"]) for event in events if event["event"] == "frozen"]
        found.append((tensors(run.folder), steps(events), frozen))
        assert folder.exists() == (len(found) > 1)
    assert [bool(frozen) for _, _, frozen in found] == [False, True, False], "filled once, then used"
    assert {what for what, _, _ in found[1][2]} == {"training", "validation"}
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)
    assert_near(found[1][0], found[0][0])
    assert found[2][1] == found[1][1]
    assert all(torch.equal(found[2][0][key], found[1][0][key]) for key in found[1][0])


@pytest.mark.parametrize("trouble", ["no room", "a full disk"])
def test_without_room_for_frozen_layers_the_result_is_the_same(
    quick: Any, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    top = {"adapter.layers": "top-1"}
    without = pipeline.run(quick({**top, "training.cache_frozen_layers": False}))
    if trouble == "no room":
        monkeypatch.setattr("pefttune.batching.kept.BYTES_LEFT_FREE", 2**60)
    else:
        monkeypatch.setattr("os.posix_fallocate", full)
    events: list[dict[str, Any]] = []
    run = pipeline.run(quick(top), events.append)
    told = [event["message"] for event in events if event["event"] == "notice"]
    assert len(told) == 2  # training and validation rows
    assert all(message.startswith("the frozen layers are run again in every pass: ") for message in told)
    assert all(torch.equal(tensors(run.folder)[key], value) for key, value in tensors(without.folder).items())


def full(*call: Any) -> None:
    raise OSError(28, "No space left on device")


def test_two_recipes_on_upper_layers_of_which_one_has_no_cache(quick: Any) -> None:
    top = {"adapter.layers": "top-1", "output.name": "other"}
    together = pipeline.run_together([quick({"adapter.layers": "top-1"}), quick({**top, "seed": 3})])
    mixed = pipeline.run_together(
        [quick({"adapter.layers": "top-1"}), quick({**top, "seed": 3, "training.cache_frozen_layers": False})]
    )
    for one, other in zip(together, mixed, strict=True):
        assert_near(tensors(one.folder), tensors(other.folder))


def test_a_base_that_reads_padded_batches_is_told_and_learns_the_same(
    quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"training.max_steps": 1, "training.per_device_train_batch_size": 100}  # all rows, whatever their order
    ragged = pipeline.run(quick(step))
    monkeypatch.setattr("pefttune.inference.collating.disagreement", lambda *args, **options: "it cannot")
    events: list[dict[str, Any]] = []
    padded = pipeline.run_together([quick(step), quick({**step, **HEAD})], events.append)
    told = [event["message"] for event in events if event["event"] == "notice"]
    assert told == ["this base reads padded batches, which are slower: ragged, it cannot"]
    assert_near(tensors(padded[0].folder), tensors(ragged.folder))


def test_no_recipe_is_an_error_of_ours() -> None:
    with pytest.raises(RecipeError, match="no recipe was given"):
        pipeline.run_together([])
