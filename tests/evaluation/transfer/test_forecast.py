"""Learning curves and what is foretold by them: laws that are known beforehand must be found again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pefttune.evaluation.transfer import forecast as room
from pefttune.evaluation.transfer.curve import USUAL_EXPONENT, PowerLaw, fit
from pefttune.evaluation.transfer.forecast import FOLDS, SHARES, Forecast, forecast

ROWS = [20, 40, 80, 160]


def accuracy(tallies: np.ndarray) -> np.ndarray:
    right: np.ndarray = tallies[..., 0] / tallies[..., 1]
    return right


def foretold(errors: list[float], rows: int = 16_000, tuned: bool = False, sampled: int = 2000) -> Forecast:
    """The forecast from tallies of these errors at each share of the sample."""
    tallies = []
    for error, parts in zip(errors, SHARES.values(), strict=True):
        right = np.arange(sampled) >= error * sampled
        tallies.append(np.stack([np.stack([right, np.ones(sampled)], 1)] * parts).astype(float))
    return forecast(tallies, accuracy, sampled, rows, 0.95, 0, tuned=tuned)


def test_an_exact_law_is_found() -> None:
    law = PowerLaw(2.0, 0.3)
    found = fit(ROWS, np.array([law.error(n) for n in ROWS]), noise=0.0)
    assert found.exponent == pytest.approx(0.3, abs=1e-3)
    assert found.error(1000) == pytest.approx(law.error(1000), rel=1e-2)
    rows = found.rows_for(0.1)
    assert rows is not None
    assert found.error(rows) == pytest.approx(0.1)


def test_where_points_are_noise_the_usual_exponent_stands() -> None:
    assert fit(ROWS, np.array([0.5, 0.1, 0.5, 0.1]), noise=100.0).exponent == pytest.approx(USUAL_EXPONENT, abs=1e-3)


def test_error_never_grows_with_rows() -> None:
    found = fit(ROWS, np.array([0.1, 0.2, 0.3, 0.4]), noise=0.01)
    assert found.exponent == 0
    assert found.rows_for(0.01) is None


def test_a_law_is_foretold_along_itself() -> None:
    learned = [share * 2000 * (FOLDS - 1) / FOLDS for share in SHARES]
    law = PowerLaw(1.0, 0.2)
    found = foretold([law.error(n) for n in learned])
    assert found.metric == pytest.approx(1 - law.error(16_000), abs=0.005)
    assert found.low < found.metric < found.high
    assert found.probe == pytest.approx(1 - law.error(1600), abs=1e-3)
    assert found.more_rows is not None
    assert 1 - law.error(16_000 + found.more_rows) == pytest.approx(found.metric + 0.02, abs=0.005)
    assert [point.measured for point in found.curve] == [True] * 4 + [False] * 5


def test_an_adapter_is_foretold_as_a_head_is_but_less_surely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SPREAD", 0.5)
    head, adapter = (foretold([0.4, 0.35, 0.3, 0.26], tuned=tuned) for tuned in (False, True))
    assert adapter.metric == head.metric
    assert (1 - adapter.low) / (1 - adapter.high) > math.exp(2 * 1.96 * 0.5)
    assert (1 - head.low) / (1 - head.high) < math.exp(0.5)


def test_no_errors_at_all_are_foretold_without_a_fault() -> None:
    found = foretold([0.0, 0.0, 0.0, 0.0], tuned=True)
    assert 0.99 < found.metric <= 1
    assert found.more_rows is None
