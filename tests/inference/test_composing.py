"""Adapters together on the same rows: stacked, averaged, or each for itself in shared passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pefttune import methods, tasks
from pefttune.errors import AdapterError, DataError
from pefttune.inference import Session
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Dora, Head, PromptTuning

TEXTS = ["a film", "poor, dull, cold and rather longer than the others are", "x", "bright and warm", "no"]


@pytest.fixture
def session(base_of: Any, adapted: Any) -> Session:
    session = Session(base_of())
    adapted(session, "one", seed=1)
    adapted(session, "two", seed=2, r=2)
    adapted(session, "head", approach="head", seed=3)
    return session


def probabilities(session: Session, name: str) -> np.ndarray:
    return np.array([list(each.probabilities.values()) for each in session.predict(TEXTS, name)])


def test_a_stack_adds_the_updates_of_all_for_the_task_of_the_last(session: Session, adapted: Any) -> None:
    session.stack("both", ["one", "head"])
    assert session["both"].head is session["head"].head
    # By hand: one LoRA that holds the ranks of both.
    summed = adapted(session, "summed", approach="head", r=8, lora_alpha=8)
    merged = methods.merge([session[name].adapter.updates for name in ("one", "head")], [1, 1], "linear", 8, 1.0, 0)
    state = {
        f"{key}.lora_{half}.weight": t for key, own in merged.factors.items() for half, t in zip("AB", own, strict=True)
    }
    head = {f"base_model.model.{key}": parameter for key, parameter in session["head"].head.by_key().items()}
    summed.load_state({**state, **head})
    # Float32: two products of rank 4 summed, or one of rank 8.
    np.testing.assert_allclose(probabilities(session, "both"), probabilities(session, "summed"), rtol=1e-4)
    assert np.abs(probabilities(session, "both") - probabilities(session, "head")).max() > 1e-3


@pytest.mark.parametrize("others", [["one", "two"], ["one", "two", "head", "fourth"]])
def test_a_stack_shares_passes_with_others(session: Session, adapted: Any, others: list[str]) -> None:
    """Alone it acts on all rows, here on its own; with so many adapters updates are computed at once."""
    adapted(session, "fourth", approach="head", seed=4)
    session.stack("both", ["one", "two"])
    alone = {name: probabilities(session, name) for name in ("both", *others)}
    names = ["both", *others]
    mixed = list(session.predict([text for text in TEXTS for _ in names], names * len(TEXTS)))
    for i, prediction in enumerate(mixed):
        expected = alone[names[i % len(names)]][i // len(names)]
        np.testing.assert_allclose(list(prediction.probabilities.values()), expected, rtol=1e-4)  # batches differ


def test_a_stack_leaves_its_parts_as_they_were_and_holds_them(session: Session) -> None:
    before = probabilities(session, "one")
    session.stack("both", ["one", "two"])
    list(session.predict(TEXTS, "both"))
    assert np.array_equal(probabilities(session, "one"), before)
    with pytest.raises(AdapterError, match="'one' is a part of 'both'; remove that first"):
        session.remove("one")
    session.remove("both")
    assert np.array_equal(probabilities(session, "one"), before)
    session.remove("one")
    assert set(session.names) == {"two", "head"}


def test_parts_stay_on_the_base_where_memory_is_limited(finished: Any, base_of: Any) -> None:
    folder, base = finished("label-words").run.folder, base_of(finished("label-words").recipe.base.source)
    session = Session(base, max_adapter_mib=0.0)
    session.load(folder, "one")
    session.load(folder, "two")
    with pytest.raises(AdapterError, match="'one' cannot be stacked: max_adapter_mib leaves no room"):
        session.stack("both", ["one", "two"])
    roomy = Session(base, max_adapter_mib=1000)
    for name in ("one", "two"):
        roomy.load(folder, name)
    roomy.stack("both", ["one", "two"])
    roomy._shelf._limit = 0
    roomy.load(folder, "three")
    assert {"one", "two"} <= set(roomy.resident)


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_an_average_is_the_mean_of_probabilities(session: Session, weights: list[float] | None) -> None:
    session.average("mean", ["one", "two"], weights)
    first, second = (probabilities(session, name) for name in ("one", "two"))
    shares = [0.5, 0.5] if weights is None else [0.75, 0.25]
    # Scores near -10 in float32, whose last bits depend on the batch.
    np.testing.assert_allclose(probabilities(session, "mean"), shares[0] * first + shares[1] * second, rtol=1e-4)
    examples = [example for text in TEXTS for example in session.purpose("mean").encoder(as_row(text))]
    scores = np.stack([each.numpy() for each in session.scores("mean", examples)])
    np.testing.assert_allclose(softmax(scores, axis=1), probabilities(session, "mean"), rtol=1e-4)


def as_row(text: str) -> Any:
    from pefttune.data import Row

    return Row({"text": text}, "a text")


def test_numbers_and_independent_labels_are_averaged_too() -> None:
    few = [torch.tensor([0.2, 0.9]), torch.tensor([0.6, 0.1])]
    for problem, labels in (("multi_label_classification", ("a", "b")), ("regression", None)):
        section = sections.TextClassification(
            type="text-classification", approach="head", problem_type=problem, labels=labels
        )
        assert tasks.get(section).average(few, [0.75, 0.25]).tolist() == pytest.approx([0.3, 0.7])


def test_spans_and_tags_are_averaged_in_their_probabilities() -> None:
    few = [torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.6, 0.4]]).log()]
    for section in (
        sections.TokenClassification(type="token-classification"),
        sections.QuestionAnswering(type="question-answering"),
    ):
        averaged = tasks.get(section).average(few, [0.5, 0.5]).exp()
        torch.testing.assert_close(averaged, torch.tensor([[0.4, 0.6]]))


def test_an_average_cannot_be_in_use_and_goes(session: Session) -> None:
    session.average("mean", ["one", "two"])
    assert session.names[-1] == "mean"
    with pytest.raises(AdapterError, match="'mean' is the average of one, two: give its name to predict"):
        session.use("mean")
    with pytest.raises(AdapterError, match="the session already holds another adapter 'mean'"):
        session.average("mean", ["one", "two"])
    session.remove("mean")
    assert "mean" not in session.names


def test_in_parallel_every_row_gets_what_each_adapter_says_alone(session: Session) -> None:
    names = ["head", "one", "two"]
    found = list(session.parallel(iter(TEXTS), names))
    assert [list(each) for each in found] == [names] * len(TEXTS)
    for name in names:
        expected = probabilities(session, name)
        own = np.array([list(each[name].probabilities.values()) for each in found])
        np.testing.assert_allclose(own, expected, rtol=1e-4)  # as above
    with pytest.raises(DataError, match="text 2"):
        list(session.parallel(["fine", {"title": "fine"}], names))


def test_what_cannot_be_put_together_is_said(session: Session, adapted: Any) -> None:
    adapted(session, "other", labels=("x", "y"))
    task = session["one"].task
    session.add("dora", session.attach(task, Dora(method="dora"), 256))
    session.add("bare", session.attach(session["head"].task, Head(method="head"), 256))
    session.stack("both", ["one", "two"])
    written = sections.TextGeneration(type="text-generation", max_new_tokens=8)
    session.add("prompt", session.attach(task, PromptTuning(method="prompt_tuning"), 256))
    session.add("writer", session.attach(tasks.get(written), Dora(method="dora"), 256))
    for call, told in (
        (lambda: session.stack("x", ["one"]), "give the names of two adapters"),
        (lambda: session.stack("x", "one"), "give the names of two adapters"),
        (lambda: session.stack("x", ["one", "one"]), "'one' is named twice"),
        (lambda: session.stack("x", ["one", "none"]), "no adapter 'none' in this session"),
        (lambda: session.stack("one", ["one", "two"]), "already holds another adapter 'one'"),
        (lambda: session.stack("x", ["one", "dora"]), "'dora' cannot be stacked: its method puts layers in the places"),
        (lambda: session.stack("x", ["both", "head"]), "'both' cannot be stacked: it has no update of its own"),
        (lambda: session.stack("x", ["base:one", "head"]), "'base:one' cannot be stacked: it has no update"),
        (lambda: session.stack("x", ["prompt", "one"]), "'prompt' cannot be stacked: its virtual tokens stand in"),
        (lambda: session.average("x", ["one", "prompt"]), "'one' and 'prompt' are not asked alike"),
        (lambda: session.average("x", ["prompt", "one"]), "'prompt' and 'one' are not asked alike"),
        (lambda: session.average("x", ["one", "other"]), "'one' and 'other' are not asked alike"),
        (lambda: session.average("x", ["one", "head"]), "'one' and 'head' are not asked alike"),
        (lambda: session.average("x", ["writer", "one"]), "answers that are written cannot be averaged"),
        (lambda: session.average("x", ["one", "two"], [1.0]), "there are 2 adapters, so give 2 weights, not 1"),
        (lambda: session.average("x", ["one", "two"], [1.0, -1.0]), "are no shares"),
        (lambda: session.average("x", ["one", "two"], [0.0, 0.0]), "are no shares"),
        (lambda: session.average("x", ["one", "two"], [1.0, float("nan")]), "are no shares"),
        (lambda: session.average("x", ["one", "two"], ["2", 1]), "are no shares"),
        (lambda: session.average("x", ["one", "two"], [1e308, 1e308]), "are no shares"),
        (lambda: session.parallel(TEXTS, "one"), "takes several adapters"),
        (lambda: session.parallel(TEXTS, []), "takes several adapters"),
        (lambda: session.parallel(TEXTS, ["one", "none"]), "no adapter 'none' in this session"),
    ):
        with pytest.raises(AdapterError, match=told):
            call()
    with pytest.raises(DataError, match="take several rows"):
        session.parallel("one text", ["one", "two"])
    assert "x" not in session.names
