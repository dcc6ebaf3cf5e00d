"""Several adapters trained in one pass over one base become what each becomes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pefttune import batching
from pefttune.errors import TrainingError
from pefttune.inference import Session
from pefttune.recipe import schema
from pefttune.training import TrainingLog, Work, fit
from pefttune.training.loop import _passes

pytestmark = pytest.mark.usefixtures("_fresh_accelerate")
# float32: the same sums in passes of other height, so in another order; 1e-7 for each, some more behind an optimizer
# that divides each gradient by its own size.
ORDER_OF_SUMS = 1e-5

TEXTS = ["fine film", "dull", "a rather long and not at all bad film, all in all", "no", "warm and bright", "cold one"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "a": {"labels": ("bad", "rather good"), "seed": 1, "r": 4},
    "b": {"labels": ("x", "y", "z"), "seed": 2, "r": 2, "approach": "head", "target_modules": ["q_proj", "up_proj"]},
    "c": {"labels": ("one", "two"), "seed": 3, "r": 8, "layers": "top-1", "lora_alpha": 4},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "a": {"learning_rate": 1e-2, "max_steps": 5, "max_grad_norm": 0.5, "per_device_train_batch_size": 3},
    "b": {"learning_rate": 1e-3, "max_steps": 3, "max_grad_norm": 0, "lr_scheduler_type": "cosine"},
    "c": {"learning_rate": 5e-3, "max_steps": 9, "eval_steps": 2, "early_stopping_patience": 1},
}


class Trained(NamedTuple):
    """What came of it: weights, logs, the gradients of every step, and how many passes and tokens there were."""

    weights: dict[str, dict[str, Tensor]]
    logs: dict[str, TrainingLog]
    gradients: dict[str, list[Tensor]]
    passes: list[list[tuple[str, int]]]


@pytest.fixture
def train(base_of: Any, adapted: Any, examples_of: Any, tmp_path: Path) -> Any:
    """Trains the adapters of these names together."""

    def run(names: str, max_tokens: int = 2000, ragged: bool | None = None, **of_base: Any) -> Trained:
        session = Session(base_of(**of_base), max_tokens)
        session.collator.ragged = ragged
        works, passes = [], []
        for name in names:
            loaded = adapted(session, name, std=0.05, **ADAPTERS[name])
            works.append(work_of(session, name, examples_of(loaded, rows_of(name)), tmp_path / name))

        def losses(batches: Any) -> Any:
            passes.append([(name, batch.n_tokens) for name, batch in batches])
            return session.losses(batches)

        with gradients_of(session, names) as gradients:
            logs = fit(works, losses, session.base.digest, max_tokens)
        weights = {name: session[name].state() for name in names}
        return Trained(weights, dict(zip(names, logs, strict=True)), gradients, passes)

    return run


def rows_of(name: str) -> list[tuple[str, str]]:
    """Rows of its own, another order, another number of them."""
    labels = ADAPTERS[name]["labels"]
    texts = [TEXTS[(i + ord(name)) % 6] + f" {name}{i}" for i in range(6 + ord(name) % 3)]
    return [(text, labels[i % len(labels)]) for i, text in enumerate(texts)]


@contextmanager
def gradients_of(session: Session, names: str) -> Iterator[dict[str, list[Tensor]]]:
    """The gradient of every step in the block, by the name of whose it is."""
    owners = {id(p): (name, p) for name in names for p in session[name].parameters.values()}
    found: dict[str, list[Tensor]] = {}

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        (whole,) = optimizer.param_groups[0]["params"]
        inside = whole.untyped_storage().data_ptr()
        (name,) = {name for name, p in owners.values() if p.untyped_storage().data_ptr() == inside}
        found.setdefault(name, []).append(whole.grad.clone())

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def work_of(session: Session, name: str, examples: list[Any], folder: Path) -> Work:
    config = schema.Training(**{"per_device_train_batch_size": 4, "lr_scheduler_type": "constant", **SETTINGS[name]})
    folder.mkdir(exist_ok=True)
    session.collator.try_ragged(examples)
    # Fewer and fewer right: c, which is patient once, stops after its second evaluation.
    accuracies = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])

    def plan(epoch: int) -> Any:
        rows, ragged = config.per_device_train_batch_size, bool(session.collator.ragged)
        return batching.training_steps(examples, rows, session.max_batch_tokens, (7, epoch), ragged=ragged)

    def evaluate() -> dict[str, Any]:
        session.scores(name, examples)  # as a real one: it makes the adapter act, alone
        return {"accuracy": next(accuracies)}

    return Work(
        name=name,
        trainable=session[name].parameters,
        plan=plan,
        collate=lambda indices: session.collator.collate([examples[i] for i in indices], every_answer=False),
        train_mode=session[name].train,
        evaluate=evaluate,
        watched="accuracy",
        origins=lambda indices: [examples[i].origin for i in indices],
        config=config.model_copy(update={"load_best_model_at_end": name == "a"}),
        run_folder=folder,
        notify=lambda event: None,
    )


def assert_same(together: Trained, alone: Trained, *, exactly: bool = False) -> None:
    for name, weights in alone.weights.items():
        one, other = together.logs[name], alone.logs[name]
        assert [r["examples"] for r in one.steps] == [r["examples"] for r in other.steps]
        assert (one.best_step, one.stopped_early) == (other.best_step, other.stopped_early)
        assert [r["learning_rate"] for r in one.steps] == [r["learning_rate"] for r in other.steps]
        for ours, theirs in zip(together.gradients[name], alone.gradients[name], strict=True):
            if exactly:
                assert torch.equal(ours, theirs)
            else:
                assert (ours - theirs).norm() <= 10 * ORDER_OF_SUMS * theirs.norm()
        for key, tensor in weights.items():
            if exactly:
                assert torch.equal(together.weights[name][key], tensor)
            else:
                assert (together.weights[name][key] - tensor).norm() <= 10 * ORDER_OF_SUMS * tensor.norm(), key
        for ours, theirs in zip(one.steps, other.steps, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=ORDER_OF_SUMS)


@pytest.mark.parametrize("names", ["ab", "ac", "abc", "cba"])
def test_each_becomes_what_it_becomes_alone(train: Any, names: str) -> None:
    together = train(names)
    assert any(len(batches) == len(names) for batches in together.passes)
    for name in names:
        assert_same(together, train(name))
    # Different lengths: a trains 5 steps, b 3, c is stopped early.
    assert {name: len(together.logs[name].steps) for name in names} == {
        name: {"a": 5, "b": 3, "c": 4}[name] for name in names
    }


def test_the_first_step_is_equal_as_far_as_float32_goes(train: Any) -> None:
    together = train("abc")
    for name in "abc":
        ours, theirs = together.gradients[name][0], train(name).gradients[name][0]
        assert ours.any()
        assert (ours - theirs).norm() <= ORDER_OF_SUMS * theirs.norm()


@pytest.mark.parametrize("quantization", ["nf4"])
def test_on_a_quantized_base(train: Any, quantization: str) -> None:
    together = train("ab", quantization=quantization)
    for name in "ab":
        assert_same(together, train(name, quantization=quantization))


def test_a_budget_for_one_batch_makes_passes_of_one(train: Any) -> None:
    alone = train("a", max_tokens=1)
    together = train("ac", max_tokens=1)
    assert {len(batches) for batches in together.passes} == {1}
    assert_same(together, alone, exactly=True)


def test_a_budget_bounds_a_pass(train: Any) -> None:
    wide = train("abc")
    most = max(sum(tokens for _, tokens in batches) for batches in wide.passes)
    budget = most - 1
    narrow = train("abc", max_tokens=budget)
    for batches in narrow.passes:
        assert len(batches) == 1 or sum(tokens for _, tokens in batches) <= budget
        assert len({name for name, _ in batches}) == len(batches)
    assert len(narrow.passes) > len(wide.passes)
    assert_same(narrow, wide)


def test_a_base_that_reads_padded_batches_trains_one_by_one(train: Any) -> None:
    together = train("ab", ragged=False)
    for name in "ab":
        assert_same(together, train(name, ragged=False), exactly=True)  # the very same passes


def test_passes_hold_each_work_once_and_no_more_than_they_may() -> None:
    batches = [("a", 5), ("a", 5), ("b", 3), ("c", 3), ("d", 9), ("e", 20), ("f", 1)]
    made = [(name, SimpleNamespace(n_tokens=tokens)) for name, tokens in batches]
    passes = [[(name, batch.n_tokens) for name, batch in together] for together in _passes(made, 10)]
    assert passes == [[("a", 5)], [("a", 5), ("b", 3)], [("c", 3)], [("d", 9)], [("e", 20)], [("f", 1)]]


def test_the_budget_of_one_token_gives_the_result_of_a_large_one(train: Any) -> None:
    assert_same(train("a", max_tokens=1), train("a", max_tokens=100_000))


def test_a_step_without_a_labelled_token_is_told_with_its_rows(toy: Any) -> None:
    toy.collate = lambda indices: SimpleNamespace(indices=indices, n_scored=0, n_examples=len(indices), n_tokens=7)
    with pytest.raises(
        TrainingError, match=r"a step of toy has no labelled token to learn from; its rows: rows\.csv:0"
    ):
        toy.fit(max_steps=1)
    assert not toy.trainable["w"].any()
