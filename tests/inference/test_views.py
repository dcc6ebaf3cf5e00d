"""A base's views of examples: exactly what transformers alone gives behind each layer, computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pefttune import tasks
from pefttune.data import Example, Row
from pefttune.inference import Session, View, answer_log_likelihoods, views, views_of
from pefttune.recipe import tasks as sections

TEXTS = ["a film", "poor, dull, cold and rather longer than the others are", "xyz"]


def silent(told: Any) -> None:
    pass


def examples_for(session: Session, approach: str) -> list[Example]:
    task = tasks.get(sections.TextClassification(type="text-classification", approach=approach, labels=("bad", "good")))
    encoder = session.encoder(task, 128)
    return [encoder(Row({"text": text, "label": "good"}, text))[0] for text in TEXTS]


def states_by_transformers(session: Session, example: Example) -> tuple[torch.Tensor, ...]:
    ids = torch.tensor([example.prompt])
    with torch.no_grad(), session.passing(None):
        return session.base.model.base_model(ids, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(("base", "approach"), [("tiny", "label-words"), ("tiny", "head"), ("tiny_encoder", "head")])
@pytest.mark.parametrize("ragged", [True, False])
def test_views_are_those_of_transformers(
    request: pytest.FixtureRequest, base_of: Any, base: str, approach: str, ragged: bool
) -> None:
    session = Session(base_of(request.getfixturevalue(base)))
    session.collator.ragged = ragged
    examples = examples_for(session, approach)
    found = views_of(session, examples, silent, silent)
    assert set(found) == {View(layer, pooling) for layer in (1, 2) for pooling in ("head", "mean")}
    head = 0 if base == "tiny_encoder" else -1
    prompts = [example.prompt for example in examples]
    before = next(i for i, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
    reversed_prompts = [prompt[::-1] for prompt in prompts]
    after = next(i for i, tokens in enumerate(zip(*reversed_prompts, strict=False)) if len(set(tokens)) > 1)
    for i, example in enumerate(examples):
        states = states_by_transformers(session, example)
        own = slice(before, len(example.prompt) - after)
        for layer in (1, 2):
            # Float32 through two layers, in batches of another shape.
            np.testing.assert_allclose(found[View(layer, "head")][i], states[layer][0, head], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                found[View(layer, "mean")][i], states[layer][0, own].mean(0), rtol=1e-4, atol=1e-5
            )


def test_words_have_a_view_each_and_no_mean(base_of: Any, tiny_encoder: Path) -> None:
    session = Session(base_of(tiny_encoder))
    section = sections.TokenClassification(type="token-classification", labels=("PER",), stride=4)
    encoder = session.encoder(tasks.get(section), 64)
    words = [["ann", "saw", "bob"], ["x"]]
    examples = [e for each in words for e in encoder(Row({"tokens": each, "tags": ["O"] * len(each)}, "row"))]
    found = views_of(session, examples, silent, silent)
    assert {view.pooling for view in found} == {"head"}
    states = states_by_transformers(session, examples[0])[2][0]
    marks = [position for position, _ in examples[0].marks]
    np.testing.assert_allclose(found[View(2, "head")][:3], states[marks], rtol=1e-4, atol=1e-5)
    assert all(len(each) == 4 for each in found.values())


def test_a_second_look_costs_nothing(base_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(base_of())
    examples, done = examples_for(session, "head"), []
    first = views_of(session, examples, silent, done.append)
    assert done[-1] == len(examples)
    monkeypatch.setattr(views, "states_behind", None)  # a pass would fail
    second = views_of(session, examples, silent, silent)
    assert all(np.array_equal(first[view], second[view]) for view in first)
    with pytest.raises(TypeError):
        views_of(session, examples[:2], silent, silent)


def test_an_adapter_has_views_of_its_own(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    adapted(session, "a", approach="head")
    examples = examples_for(session, "head")
    plain, changed = (views_of(session, examples, silent, silent, name)[View(2, "head")] for name in (None, "a"))
    session.use("a")
    wanted = [states[0].numpy() for states in session_states(session, examples)]
    np.testing.assert_allclose(changed, wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain, changed, atol=1e-2)


def session_states(session: Session, examples: list[Example]) -> list[torch.Tensor]:
    """Last states of the last token with whatever acts now."""
    with torch.no_grad():
        return [session.base.model.base_model(torch.tensor([e.prompt])).last_hidden_state[:, -1] for e in examples]


def test_likelihoods_of_answers_are_those_of_transformers(base_of: Any) -> None:
    session = Session(base_of())
    examples = [Example((7, 8, 9), ((10, 11), (12,)), 0, "a"), Example((7, 20), ((30, 31, 32),), 0, "b")]
    found = answer_log_likelihoods(session, examples)
    for example, each in zip(examples, found, strict=True):
        assert len(each) == len(example.answers)
        for answer, told in zip(example.answers, each, strict=True):
            ids = torch.tensor([[*example.prompt, *answer]])
            with torch.no_grad():
                chances = session.base.model(ids).logits[0].log_softmax(-1)
            start = len(example.prompt) - 1
            wanted = [chances[start + i, token] for i, token in enumerate(answer)]
            torch.testing.assert_close(told, torch.stack(wanted), rtol=1e-4, atol=1e-5)
