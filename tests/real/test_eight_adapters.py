"""Eight adapters with heads of five kinds on one NF4 base: one base's memory, and each answers as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import bases, store, tasks
from pefttune.data import Row
from pefttune.inference import Session
from pefttune.recipe import schema
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Lora

pytestmark = pytest.mark.real

STORE = Path(__file__).resolve().parents[2] / "adapters"
NAMES = ("film-sentiment", "product-sentiment", "tweet-sentiment", "editorial-sentiment")
TEXT = "The battery died after a week in Paris, and nobody at Acme answered."
HEADS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "topics": ({"type": "text-classification", "approach": "head"}, ("a", "b", "c")),
    "rating": ({"type": "text-classification", "approach": "head", "problem_type": "regression"}, ()),
    "names": ({"type": "token-classification"}, ("LOC", "ORG")),
    "answers": ({"type": "question-answering"}, ()),
}
KINDS = {
    "text-classification": sections.TextClassification,
    "token-classification": sections.TokenClassification,
    "question-answering": sections.QuestionAnswering,
}
ROWS: dict[str, dict[str, Any]] = {
    "names": {"tokens": TEXT.split()},
    "answers": {"question": "Where did it die?", "context": TEXT},
}


@pytest.fixture(scope="module")
def session() -> Session:
    """The four stored adapters, which answer in words, and four with random heads and random updates. In float32: a
    mixed batch sums in another order than a single row, which in bfloat16 shows in a number's second digit."""
    base = schema.Base(source="smollm2-135m-instruct", quantization="nf4", dtype="float32", device="cpu")
    session = Session(bases.load(base))
    for name in NAMES:
        session.load(store.find(STORE, name), name)
    torch.manual_seed(0)
    for name, (keys, labels) in HEADS.items():
        task = tasks.get(KINDS[keys["type"]](**keys)).with_labels(labels)
        loaded = session.add(name, session.attach(task, Lora(method="lora", r=4), 512))
        for parameter in loaded.parameters.values():
            parameter.data.normal_(std=0.05)
    return session


def scores(session: Session, name: str) -> torch.Tensor:
    row = Row(ROWS.get(name, {"text": TEXT}), "row")
    examples = session[name].encoder(row)
    return torch.cat([each.flatten() for each in session.scores(name, examples)])


def test_each_comes_back_bit_equal_after_all_the_others(session: Session) -> None:
    first = {name: scores(session, name) for name in session.names}
    assert len(first) == 8
    for name in reversed(first):
        assert torch.equal(scores(session, name), first[name]), name


def test_memory_is_one_base_and_the_adapters(session: Session) -> None:
    tensors = (*session.base.model.parameters(), *session.base.model.buffers())
    resident = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    adapters = sum(
        p.nbytes for name in session.names if (one := session[name].adapter) for p in one.parameters.values()
    )
    frozen = {tensor.data_ptr(): tensor.nbytes for tensor in session.base.frozen.values()}
    assert sum(resident.values()) == sum(frozen.values()) + adapters


def test_a_mixed_batch_says_what_one_by_one_says(session: Session) -> None:
    names = list(session.names)
    rows = [ROWS.get(name, {"text": TEXT}) for name in names]
    together = [str(one) for one in session.predict(rows, names)]
    assert together == [str(next(iter(session.predict([row], name)))) for row, name in zip(rows, names, strict=True)]
