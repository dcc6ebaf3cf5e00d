"""The frozen model's outputs as input features: exactly what transformers alone gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pefttune.data import Row
from pefttune.inference import POOLINGS, Session, extract

TEXTS = ["a film", "poor, dull, cold and rather longer than the others are", "x"]


def rows() -> list[Row]:
    return [Row({"text": text}, text) for text in TEXTS]


@pytest.fixture
def session(base_of: Any, adapted: Any) -> Session:
    session = Session(base_of())
    adapted(session, "a", std=1.0)
    session.use("a")  # an adapter in use must not change the features
    return session


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_features_are_the_last_hidden_states_of_the_base(session: Session, pooling: str, base_of: Any) -> None:
    model, tokenizer = base_of().model, session.base.tokenizer
    for text, found in zip(TEXTS, extract(session, rows(), pooling, 64), strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = model.base_model(ids).last_hidden_state[0]
        wanted = {"mean": states.mean(0, keepdim=True), "first": states[:1], "last": states[-1:], "none": states}
        # A batch of several texts sums in another order than one text: float32, two layers.
        torch.testing.assert_close(found.vectors, wanted[pooling], rtol=1e-4, atol=1e-5)
        assert len(found.tokens) == ids.shape[1]
        assert not found.truncated


def test_a_text_that_is_cut_says_so(session: Session) -> None:
    found = list(extract(session, rows(), "none", 10))
    assert [features.truncated for features in found] == [False, True, False]
    assert len(found[1].vectors) == 10
