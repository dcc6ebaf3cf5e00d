"""The gradient of a step depends on its rows alone: not on how they are cut into micro-batches, not on the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pefttune.inference import Session
from pefttune.recipe import schema
from pefttune.training import Work, fit

pytestmark = pytest.mark.usefixtures("_fresh_accelerate")
# float32 keeps 24 bits: sums of the same terms in another order differ in the last few, 1e-7 of the largest.
ORDER_OF_SUMS = 1e-6
LABELS = ("bad", "rather good")  # of different length, so that means of means differ from the global mean


@pytest.fixture(params=["label-words", "head"])
def approach(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pairs(ragged: Any) -> list[tuple[str, str]]:
    return [(text, LABELS[label == "good"]) for text, label in ragged]


@pytest.fixture
def setting(base_of: Any, adapted: Any, examples_of: Any, pairs: Any, approach: str) -> tuple[Session, Any, Any]:
    session = Session(base_of())
    loaded = adapted(session, "a", labels=LABELS, approach=approach, std=0.02)
    return session, loaded, examples_of(loaded, pairs)


def first_step(setting: tuple[Session, Any, Any], plan: Sequence[Sequence[int]], folder: Path) -> Any:
    """Gradients of the loop's first optimizer step over these micro-batches, and its record."""
    session, loaded, examples = setting
    gradients: dict[str, Tensor] = {}

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients.update({key: parameter.grad.clone() for key, parameter in loaded.parameters.items()})

    work = Work(
        name="a",
        trainable=loaded.parameters,
        plan=lambda epoch: [plan],
        collate=lambda indices: session.collator.collate([examples[i] for i in indices], every_answer=False),
        train_mode=loaded.train,
        evaluate=lambda: {"accuracy": 0.0},
        watched="accuracy",
        origins=lambda indices: [examples[i].origin for i in indices],
        config=schema.Training(learning_rate=1e-3, max_steps=1, max_grad_norm=0),
        run_folder=folder,
        notify=lambda event: None,
    )
    before = loaded.state()
    handle = register_optimizer_step_pre_hook(note)
    (log,) = fit([work], session.losses, session.base.digest, session.max_batch_tokens)
    handle.remove()
    loaded.load_state(before)
    return gradients, log.steps[0]


def largest(gradients: dict[str, Tensor]) -> float:
    return max(float(gradient.abs().max()) for gradient in gradients.values())


def test_one_batch_of_eight_is_four_of_two(setting: Any, tmp_path: Path) -> None:
    whole, record = first_step(setting, [list(range(8))], tmp_path)
    for plan in ([[0, 1], [2, 3], [4, 5], [6, 7]], [[3], [0, 7, 1, 2, 6], [5, 4]]):
        parts, other = first_step(setting, plan, tmp_path)
        for key, gradient in whole.items():
            assert gradient.any(), key
            assert (gradient - parts[key]).abs().max() <= ORDER_OF_SUMS * largest(whole), key
        assert other["loss"] == pytest.approx(record["loss"], rel=ORDER_OF_SUMS)
        assert other["gradient_norm"] == pytest.approx(record["gradient_norm"], rel=ORDER_OF_SUMS)
        assert other["examples"] == record["examples"]
        assert other["tokens"] >= record["tokens"]  # what is read: a shared beginning is read once in each batch


def test_it_is_not_the_mean_of_the_micro_batches_means(setting: Any, tmp_path: Path) -> None:
    session, _, examples = setting
    plan = [[3], [0, 7, 1, 2, 6], [5, 4]]
    batches = [session.collator.collate([examples[i] for i in indices], every_answer=False) for indices in plan]
    with torch.no_grad():
        losses = [float(session.loss("a", batch)) for batch in batches]
    means = sum(loss / batch.n_scored for loss, batch in zip(losses, batches, strict=True)) / 3
    record = first_step(setting, plan, tmp_path)[1]
    assert record["loss"] == pytest.approx(sum(losses) / sum(batch.n_scored for batch in batches), rel=ORDER_OF_SUMS)
    assert abs(record["loss"] - means) > 1e-3 * means


@pytest.mark.parametrize("approach", ["label-words"], indirect=True)
def test_prompt_tokens_contribute_nothing(setting: Any, tmp_path: Path) -> None:
    """Against the textbook: the whole model's logits, every position, and labels of -100 on the prompt."""
    session, loaded, examples = setting
    ours, _ = first_step(setting, [list(range(8))], tmp_path)

    def textbook(masked: bool) -> dict[str, Tensor]:
        loaded.train(True)
        session.use("a")
        total, count = torch.zeros(()), 0
        for example in examples:
            answer = example.answers[example.target]
            ids = torch.tensor([*example.prompt, *answer])
            labels = ids.clone()
            if masked:
                labels[: len(example.prompt)] = -100
            logits = session.base.model(ids[None]).logits[0]
            total = total + cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
            count += int((labels[1:] != -100).sum())
        (total / count).backward()
        gradients = {key: parameter.grad.clone() for key, parameter in loaded.parameters.items()}
        for parameter in loaded.parameters.values():
            parameter.grad = None
        loaded.train(False)
        return gradients

    masked, unmasked = textbook(True), textbook(False)
    for key, gradient in ours.items():
        assert (gradient - masked[key]).abs().max() <= ORDER_OF_SUMS * largest(masked), key
    assert max(float((ours[key] - unmasked[key]).abs().max()) for key in ours) > 0.1 * largest(ours)


def test_the_company_of_a_row_does_not_change_its_gradient(setting: Any, tmp_path: Path) -> None:
    _, _, examples = setting
    scored = [len(e.answers[e.target]) if e.answers else 1 for e in examples]
    together, _ = first_step(setting, [[0, 3]], tmp_path)  # the shortest and the longest
    first, _ = first_step(setting, [[0]], tmp_path)
    second, _ = first_step(setting, [[3]], tmp_path)
    for key, gradient in together.items():
        apart = (first[key] * scored[0] + second[key] * scored[3]) / (scored[0] + scored[3])
        assert (gradient - apart).abs().max() <= ORDER_OF_SUMS * largest(together), key
