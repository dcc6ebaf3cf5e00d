"""The one loop: its steps, its rates, its evaluations, and the weights it keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pefttune.errors import StorageError, TrainingError


@pytest.fixture
def rates_used() -> Any:
    """The learning rate of every optimizer step, as the optimizer itself saw it."""
    rates: list[float] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"])
    )
    yield rates
    handle.remove()


def test_every_step_is_told_and_logged(toy: Any) -> None:
    log = toy.fit(num_train_epochs=1)
    assert [event["step"] for event in toy.of("step")] == list(range(1, 9))
    assert [{key: value for key, value in event.items() if key not in ("event", "of")} for event in toy.of("step")] == (
        log.steps
    )
    assert {event["of"] for event in toy.of("step")} == {8}
    assert log.steps[0] == {
        "step": 1,
        "loss": 4.0,  # four weights at 0, the row is 1
        "gradient_norm": 4.0,  # each has the gradient 2 · (0 - 1)
        "examples": 1,
        "tokens": 7,
        "seconds": log.steps[0]["seconds"],
        "learning_rate": 0.1,
    }
    assert log.seconds > 0
    assert log.optimizer_bytes >= 2 * 4 * 4  # two moments of four float32


def test_the_loss_is_a_mean_over_all_labelled_positions_of_a_step(toy: Any) -> None:
    toy.plan = lambda epoch: [[[0, 1, 2], [7]]]
    log = toy.fit(max_steps=1)
    assert log.steps[0]["loss"] == 4 * (1 + 4 + 9 + 64) / 4  # not the mean of the means, which is 4 · (14 / 3 + 64) / 2
    assert (log.steps[0]["examples"], log.steps[0]["tokens"]) == (4, 14)


def test_a_penalty_joins_the_gradients_of_each_step_but_not_the_loss_that_is_told(toy: Any) -> None:
    toy.asked["penalty"] = lambda: 3 * toy.trainable["w"].sum()
    log = toy.fit(max_steps=1)
    assert log.steps[0]["loss"] == 4.0
    assert log.steps[0]["gradient_norm"] == 2.0  # 3 - 2 in each of four


def test_after_each_step_its_gradients_are_still_there(toy: Any) -> None:
    told: list[tuple[int, int, bool]] = []
    toy.asked["after_step"] = lambda step, of: told.append((step, of, bool(toy.trainable["w"].grad.all())))
    toy.fit(max_steps=3)
    assert told == [(1, 3, True), (2, 3, True), (3, 3, True)]


def test_a_parameter_with_a_rate_of_its_own_goes_so_many_times_as_far(toy: Any) -> None:
    toy.trainable = {key: nn.Parameter(torch.zeros(4)) for key in ("fast", "plain", "too")}
    toy.asked["rates"] = {"fast": 4.0}
    log = toy.fit(max_steps=1)
    assert log.steps[0]["learning_rate"] == 0.1
    moved = {key: float(parameter.detach()[0]) for key, parameter in toy.trainable.items()}
    assert moved == pytest.approx({"fast": 0.4, "plain": 0.1, "too": 0.1})  # AdamW's first step is the rate itself
    assert log.optimizer_bytes >= 2 * 12 * 4


def test_steps_go_on_through_as_many_epochs_as_they_need(toy: Any) -> None:
    log = toy.fit(max_steps=20)
    assert len(log.steps) == 20
    assert toy.epochs[-3:] == [0, 1, 2]
    toy.epochs.clear()
    assert len(toy.fit(num_train_epochs=0.5).steps) == 4
    assert len(toy.fit(num_train_epochs=2.5).steps) == 20
    assert len(toy.fit(num_train_epochs=0.01).steps) == 1


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5])
def test_no_step_is_taken_at_a_rate_of_zero(toy: Any, rates_used: list[float], kind: str, ratio: float) -> None:
    log = toy.fit(max_steps=20, lr_scheduler_type=kind, warmup_ratio=ratio, learning_rate=0.5)
    assert [record["learning_rate"] for record in log.steps] == rates_used
    assert min(rates_used) > 0
    falls = kind in ("linear", "cosine")
    warmup = 1 if kind == "constant" else max(1, math.ceil(20 * ratio))
    assert rates_used[:warmup] == sorted(rates_used[:warmup])
    # Without a warmup the falling ones begin one step down: 20 of 21 parts of the way are left.
    assert rates_used[warmup - 1] == max(rates_used) == (0.5 if ratio or not falls else pytest.approx(0.5, rel=0.05))
    if falls:
        assert rates_used[warmup - 1 :] == sorted(rates_used[warmup - 1 :], reverse=True)
        assert rates_used[-1] < 0.1


def test_gradients_are_clipped_to_the_norm_asked_for(toy: Any) -> None:
    seen: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda *a: seen.append(float(toy.trainable["w"].grad.norm())))
    log = toy.fit(max_steps=1, max_grad_norm=0.5)
    toy.trainable["w"].data.zero_()
    toy.fit(max_steps=1, max_grad_norm=0)  # never
    handle.remove()
    assert log.steps[0]["gradient_norm"] == 4.0  # told as it was
    assert seen == [pytest.approx(0.5, rel=1e-5), 4.0]  # torch adds 1e-6 to the norm it divides by


def test_what_a_launcher_sets_does_not_change_the_gradient(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # `accelerate launch` always sets both, from the user's answers to `accelerate config`.
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    log = toy.fit(max_steps=1)
    assert (log.steps[0]["loss"], log.steps[0]["gradient_norm"]) == (4.0, 4.0)


def test_gradients_do_not_pile_up_over_steps(toy: Any) -> None:
    toy.rows = 2
    toy.plan = lambda epoch: [[[0]], [[0]]]
    log = toy.fit(learning_rate=1e-6, max_grad_norm=0)
    assert log.steps[1]["gradient_norm"] == pytest.approx(4.0, rel=1e-4)  # the weights moved by 1e-6


@pytest.mark.parametrize(
    ("total", "eval_steps", "expected"),
    [
        (8, None, [2, 4, 6, 8]),
        (7, None, [2, 4, 6, 7]),
        (2, None, [1, 2]),
        (1, None, [1]),
        (8, 3, [3, 6, 8]),
        (5, 9, [5]),
    ],
)
def test_evaluations_are_spread_and_the_last_step_is_among_them(
    toy: Any, total: int, eval_steps: int | None, expected: list[int]
) -> None:
    log = toy.fit(max_steps=total, eval_steps=eval_steps)
    assert [record["step"] for record in log.evaluations] == expected
    assert [event["step"] for event in toy.of("evaluation")] == expected


def test_the_weights_of_the_best_evaluation_are_kept(toy: Any) -> None:
    toy.accuracies = [0.5, 0.9, 0.9, 0.7]
    log = toy.fit(max_steps=8)
    assert log.best_step == 4  # of equals, the earliest
    assert torch.equal(toy.trainable["w"].detach(), toy.evaluated[1]["w"])
    assert not torch.equal(toy.evaluated[1]["w"], toy.evaluated[3]["w"])
    with safe_open(toy.folder / "best.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("w"), toy.evaluated[1]["w"])
        assert file.metadata()["step"] == "4"


def test_the_last_weights_are_kept_where_that_is_asked_for(toy: Any) -> None:
    toy.accuracies = [0.5, 0.9, 0.9, 0.7]
    log = toy.fit(max_steps=8, load_best_model_at_end=False)
    assert log.best_step == 8
    assert torch.equal(toy.trainable["w"].detach(), toy.evaluated[3]["w"])


@pytest.mark.parametrize("keep_best", [True, False])
def test_training_stops_when_it_gets_no_better(toy: Any, keep_best: bool) -> None:
    toy.accuracies = [0.5, 0.6, 0.6, 0.55, 0.9]
    log = toy.fit(max_steps=50, eval_steps=2, early_stopping_patience=2, load_best_model_at_end=keep_best)
    assert log.stopped_early
    assert len(log.steps) == 8
    assert log.best_step == (4 if keep_best else 8)


def test_training_that_gets_better_does_not_stop(toy: Any) -> None:
    toy.accuracies = [0.5, 0.4, 0.6, 0.5, 0.7]
    log = toy.fit(max_steps=10, eval_steps=2, early_stopping_patience=2)
    assert not log.stopped_early
    assert len(log.steps) == 10


def test_modules_learn_in_training_and_rest_in_evaluation(toy: Any) -> None:
    inside: list[bool] = []
    evaluate = toy.evaluate

    def noting() -> dict[str, Any]:
        inside.append(toy.modes[-1])
        result: dict[str, Any] = evaluate()
        return result

    toy.evaluate = noting
    toy.fit(max_steps=4, eval_steps=2)
    assert toy.modes == [True, False, True, False, True, False]
    assert inside == [False, False]


def test_two_tensors_of_which_one_has_no_gradient_are_told_by_name(toy: Any) -> None:
    toy.trainable["idle"] = nn.Parameter(torch.zeros(2))
    toy.loss = lambda batch: (toy.trainable["w"] - 1).pow(2).sum()
    with pytest.raises(TrainingError, match=r"^toy: after 2 steps 1 of 2 trainable tensors have not moved \(idle"):
        toy.fit(max_steps=8)
    assert len(toy.of("step")) == 1


def test_a_tensor_may_wait_one_step_for_its_gradient(toy: Any) -> None:
    # As a LoRA's A, whose gradient is 0 while B is.
    toy.trainable = {"A": nn.Parameter(torch.ones(2)), "B": nn.Parameter(torch.zeros(2))}
    toy.loss = lambda batch: (toy.trainable["A"] * toy.trainable["B"] - 1).pow(2).sum()
    log = toy.fit(max_steps=4)
    assert len(log.steps) == 4


def test_a_base_that_changes_in_the_first_step_stops_training_there(toy: Any) -> None:
    toy.digests = ["before", "after"]
    with pytest.raises(TrainingError, match="the frozen base has changed during training"):
        toy.fit(max_steps=8, eval_steps=1)
    assert toy.of("step") == []  # not even the first update is made
    assert toy.of("evaluation") == []


def test_a_base_that_changes_later_is_found_at_the_end(toy: Any) -> None:
    toy.digests = ["before", "before", "after"]
    with pytest.raises(TrainingError, match="the frozen base has changed during training"):
        toy.fit(max_steps=8)
    assert len(toy.of("step")) == 8


def test_a_full_disk_stops_training_with_the_earlier_best_whole(toy: Any, disk_full: Any) -> None:
    toy.trainable = {"w": nn.Parameter(torch.zeros(50_000))}
    toy.accuracies = [0.5, 0.6]
    evaluate, limits = toy.evaluate, []

    def filling() -> dict[str, Any]:
        if len(toy.evaluated) == 1:
            limits.append(disk_full(4096))
            limits[0].__enter__()
        result: dict[str, Any] = evaluate()
        return result

    toy.evaluate = filling
    try:
        with pytest.raises(StorageError, match=r"best\.safetensors could not be written: .*free some room"):
            toy.fit(max_steps=4, eval_steps=2)
    finally:
        limits[0].__exit__(None, None, None)
    assert [path.name for path in toy.folder.iterdir()] == ["best.safetensors"]
    with safe_open(toy.folder / "best.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("w"), toy.evaluated[0]["w"])


def test_a_tracker_is_told_of_every_step(toy: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = toy.fit(max_steps=4, report_to=["tensorboard"])
    (file,) = Path(toy.folder).rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("loss")]
    assert told == [(record["step"], pytest.approx(record["loss"], rel=1e-6)) for record in log.steps]  # in float32
    assert {"learning_rate", "gradient_norm", "eval_accuracy"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_told_before_the_first_step(
    toy: Any, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])  # as accelerate finds when none is installed
    with pytest.raises(TrainingError, match=rf"report_to: {tracker} cannot be .*pip install 'pefttune\[{tracker}\]'"):
        toy.fit(report_to=[tracker])
    assert toy.events == []


def test_each_tracker_of_a_recipe_is_an_extra_of_the_package() -> None:
    import tomllib

    from pefttune.recipe import schema

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (kinds, _) = schema.Training.model_fields["report_to"].annotation.__args__
    assert len(kinds.__args__) == 4
    assert set(kinds.__args__) <= set(project["optional-dependencies"])
