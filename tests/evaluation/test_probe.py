"""Probe rows prove which adapter it is: to the last bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pefttune.data import Row
from pefttune.errors import VerificationError
from pefttune.evaluation import largest_difference, score, take_probe, verify
from pefttune.evaluation.probe import PROBE_ROWS
from pefttune.inference import Session

ROWS = [Row({"text": f"film number {i} is {'fine' if i % 2 else 'dull'}", "label": "x"}, f"row {i}") for i in range(20)]


LABELS = ("x", "y", "z")


@pytest.mark.parametrize("approach", ["label-words", "head"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_proves_itself_and_one_unit_in_the_last_place_does_not(
    base_of: Any, adapted: Any, approach: str, quantization: str
) -> None:
    session = Session(base_of(quantization=quantization))
    loaded = adapted(session, "a", LABELS, approach=approach)
    probe = json.loads(json.dumps(take_probe(session, "a", ROWS)))  # as it is stored
    assert len(probe["rows"]) == len(probe["scores"]) == PROBE_ROWS == 16
    assert largest_difference(session, "a", probe) == 0.0
    verify(session, "a", probe)
    keys = list(loaded.parameters)
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        parameter = loaded.parameters[key]
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(torch.nextafter(kept, torch.tensor(torch.inf)))  # the next float32 of each
        assert 0 < largest_difference(session, "a", probe) < 1e-2
        with pytest.raises(VerificationError, match=r"a scores its probe rows up to .* it has not been stored"):
            verify(session, "a", probe)
        with torch.no_grad():
            parameter.copy_(kept)
    verify(session, "a", probe)


def test_another_adapter_does_not_pass_for_it(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    adapted(session, "a", LABELS, seed=1)
    adapted(session, "b", LABELS, seed=2)
    probe = take_probe(session, "a", ROWS)
    with pytest.raises(VerificationError):
        verify(session, "b", probe)
    verify(session, "a", probe)


def test_fewer_rows_than_a_probe_has_will_do(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    adapted(session, "a", LABELS)
    probe = take_probe(session, "a", ROWS[:3])
    assert probe["rows"] == [dict(row.values) for row in ROWS[:3]]
    assert len(probe["scores"]) == 3
    verify(session, "a", probe)


def test_scoring_keeps_rows_and_predictions_together(base_of: Any, adapted: Any) -> None:
    session = Session(base_of())
    adapted(session, "a", LABELS)
    rows = [*ROWS, Row({"text": "x", "label": "y"}, "short")]
    done: list[int] = []
    session.max_batch_tokens = 200
    found = score(session, "a", rows, progress=done.append)
    assert len(done) > 3
    assert done == sorted(set(done))
    assert done[-1] == 21
    assert found.rows == tuple(rows)
    assert [p.label for p in found.predictions] == [p.label for p in session.predict(rows, "a")]
    right = [p.label == row.values["label"] for p, row in zip(found.predictions, rows, strict=True)]
    assert found.tallies.tolist() == [[one, 1] for one in right]
    assert found.metrics["accuracy"] == sum(right) / 21
    assert (found.name, score(session, "a", rows, name="with adapter").name) == ("a", "with adapter")
