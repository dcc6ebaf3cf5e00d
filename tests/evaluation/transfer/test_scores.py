"""Scores of transferability: beside numbers worked out by hand, or by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from pefttune.evaluation.transfer.h_score import h_score
from pefttune.evaluation.transfer.logme import logme
from pefttune.evaluation.transfer.report import label_entropy
from pefttune.evaluation.transfer.source_labels import leep, nce


@pytest.mark.parametrize("shape", [(30, 4), (12, 20)])  # more units than features, and fewer
def test_logme_is_the_greatest_evidence(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=shape)
    classes = (features[:, 0] + 0.5 * rng.normal(size=shape[0]) > 0).astype(int)
    target = (classes == 1).astype(float)

    def surprise(logs: np.ndarray, target: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = features @ features.T / alpha + np.eye(len(features)) / beta
        return -float(multivariate_normal(cov=covariance).logpdf(target))

    wanted = [
        -minimize(surprise, np.zeros(2), (each,), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).fun
        for each in (target, 1 - target)
    ]
    assert logme(features, classes) == pytest.approx(np.mean(wanted) / len(features), abs=1e-6)


def test_logme_knows_labels_from_noise() -> None:
    rng = np.random.default_rng(1)
    features, classes = rng.normal(size=(200, 8)), rng.integers(0, 3, 200)
    telling = features + np.eye(3, 8)[classes] * 3
    assert logme(telling, classes) > logme(features, classes) + 0.1


def test_h_score_by_hand() -> None:
    # One feature: Ledoit and Wolf shrink nothing. Between the classes lies 1.0 of a spread of 1.25.
    assert h_score(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])) == pytest.approx(1 / 1.25)
    assert h_score(np.array([[0.0], [2.0], [0.0], [2.0]]), np.array([0, 0, 1, 1])) == pytest.approx(0)


def test_h_score_of_noise_does_not_grow_with_the_width() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 60)
    assert h_score(rng.normal(size=(60, 400)), classes) < 0.2


def test_leep_by_hand() -> None:
    chances, classes = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])
    first = 0.9 * 0.9 / 1.1 + 0.1 * 0.1 / 0.9
    second = 0.2 * 0.2 / 1.1 + 0.8 * 0.8 / 0.9
    assert leep(chances, classes) == pytest.approx((math.log(first) + math.log(second)) / 2)


def test_nce_by_hand() -> None:
    # Behind label 0 stand both classes, behind label 1 only one: half of the rows leave log 2 open.
    assert nce(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == pytest.approx(-math.log(2) / 2)


def test_of_sure_predictions_leep_is_nce() -> None:
    rng = np.random.default_rng(0)
    predicted, classes = rng.integers(0, 4, 100), rng.integers(0, 3, 100)
    assert leep(np.eye(4)[predicted], classes) == pytest.approx(nce(predicted, classes))


def test_a_source_that_knows_nothing_has_minus_the_entropy() -> None:
    labels = ["a"] * 30 + ["b"] * 10
    classes = np.array([label == "b" for label in labels], int)
    nothing = np.full((40, 2), 0.5)
    assert leep(nothing, classes) == pytest.approx(-label_entropy(labels))
    assert label_entropy(["a", "b"]) == pytest.approx(math.log(2))
