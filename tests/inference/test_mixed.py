"""Rows of several adapters in one pass: each answers as it does alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pefttune.errors import AdapterError, DataError
from pefttune.inference import Session

TEXTS = ["a film", "poor, dull, cold and rather longer than the others are", "x", "bright and warm", "no", "fine 7"]


@pytest.fixture
def session(base_of: Any, adapted: Any) -> Session:
    session = Session(base_of())
    adapted(session, "words", labels=("x", "y", "z"))
    adapted(session, "head", approach="head", seed=2)
    adapted(session, "other", labels=("good", "bad"), seed=3, r=2)
    return session


@pytest.mark.parametrize("budget", [1, 64, 10_000])
def test_each_row_gets_what_its_adapter_says_alone(session: Session, budget: int) -> None:
    session.max_batch_tokens = budget
    whose = ["words", "head", "other", "base:words", "head", "words"]
    mixed = list(session.predict(TEXTS, whose))
    for text, name, prediction in zip(TEXTS, whose, mixed, strict=True):
        alone = next(iter(session.predict([text], name)))
        assert str(prediction) == str(alone)
        # The same sums over batches of another width: the last bits of scores near -10 in float32.
        assert prediction.probabilities == pytest.approx(alone.probabilities, rel=1e-4)


def test_adapters_really_share_a_pass(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    base = session.base.model.base_model
    forward = base.forward
    list(session.predict(TEXTS[:3], ["words", "head", "other"]))  # finds out whether batches can be ragged
    monkeypatch.setattr(base, "forward", lambda **inputs: passes.append(1) or forward(**inputs))
    list(session.predict(TEXTS[:3], ["words", "head", "other"]))
    assert len(passes) == 1


def test_a_mixed_pass_leaves_nothing_acting(session: Session, adapted: Any) -> None:
    """What is asked of the base next has other rows, of which stacked adapters would look for theirs."""
    adapted(session, "fourth", labels=("on", "off"), seed=4)
    names = ["words", "head", "other", "fourth"]
    list(session.predict(["a long text of so many rows " * 4] * 4, names))
    assert session.can_write


def test_the_base_itself_is_untouched_by_adapters_beside_it(session: Session, base_of: Any, adapted: Any) -> None:
    alone = Session(base_of())
    adapted(alone, "words", labels=("x", "y", "z"), std=0.0)  # no update at all
    plain = [p.probabilities for p in alone.predict(TEXTS, "base:words")]
    mixed = session.predict(TEXTS * 2, ["base:words"] * len(TEXTS) + ["words"] * len(TEXTS))
    for ours, theirs in zip(mixed, plain, strict=False):
        assert ours.probabilities == pytest.approx(theirs, rel=1e-4)  # as above


def test_what_has_no_zero_shot_form_is_said_so(session: Session) -> None:
    from pefttune import tasks
    from pefttune.recipe import tasks as sections
    from pefttune.recipe.adapters import Lora

    section = sections.TextClassification(
        type="text-classification", approach="head", problem_type="multi_label_classification", labels=("a", "b")
    )
    session.add("many", session.attach(tasks.get(section), Lora(method="lora"), 64))
    with pytest.raises(AdapterError, match="the base of 'many' cannot be asked to do text-classification without"):
        session.predict(TEXTS, "base:many")
    with pytest.raises(AdapterError, match="no adapter 'base:none' in this session"):
        session.predict(TEXTS, "base:none")


def test_wrong_rows_and_names_are_told(session: Session) -> None:
    with pytest.raises(AdapterError, match="no adapter 'nobody'"):
        session.predict(TEXTS, ["words"] * 5 + ["nobody"])
    with pytest.raises(DataError, match="text 2: there are more rows than adapters named for them"):
        list(session.predict(TEXTS, ["words"]))
    with pytest.raises(DataError, match="text 1: there is no column 'text', but question"):
        list(session.predict([{"question": "?"}], "words"))


def test_predicting_keeps_no_gradients(session: Session) -> None:
    list(session.predict(TEXTS, ["words", "head"] * 3))
    parameters = [p for name in session.names for p in session[name].parameters.values()]
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    assert torch.is_grad_enabled()


def test_the_base_asked_for_an_adapter_goes_with_it(session: Session, adapted: Any) -> None:
    before = [p.probabilities.keys() for p in session.predict(TEXTS, "base:words")]
    session.remove("words")
    assert "base:words" not in session.names
    adapted(session, "words", labels=("other", "names"))
    assert [p.probabilities.keys() for p in session.predict(TEXTS, "base:words")] != before
