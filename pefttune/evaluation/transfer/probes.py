"""Small models on frozen features, judged on rows that they did not learn from.

Shapes: U units, C classes, D the width of the features. Folds are made of rows, so that the words of one text are never
on both sides.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from pefttune.data import UNKNOWN
from pefttune.evaluation.transfer.sample import Sample

FOLDS = 5
NEIGHBOURS = 5
# Inverse strength of the penalty on standardized features: weights of about a tenth each, so that hundreds of features
# of a few hundred rows do not fit noise.
INVERSE_PENALTY = 0.01
LEAST = 1e-9  # the probability of a class that a probe has not met

Model = Callable[[], Any]


def linear() -> Any:
    """Logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=300, tol=1e-3))


def nearest() -> Any:
    """The labels of the nearest units by the angle between features."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(NEIGHBOURS, metric="cosine")


def cross_predicted(
    model: Model, sample: Sample, features_UD: np.ndarray, share: float = 1.0, part: int = 0
) -> np.ndarray:
    """Log-probabilities (U, C) of each unit's classes, by a model that learned from a `share` of the rows of all other
    folds: the part of that number, counted from 0. The sample's rows are in random order."""
    first, behind = part * share * len(sample.rows), (part + 1) * share * len(sample.rows)
    fold_U = sample.rows_U % FOLDS
    result = np.empty((len(features_UD), sample.classes))
    for fold in range(FOLDS):
        others = np.flatnonzero((fold_U != fold) & (sample.targets_U != UNKNOWN))
        learned = others[(sample.rows_U[others] >= first) & (sample.rows_U[others] < behind)]
        held_out = fold_U == fold
        result[held_out] = predicted(
            model, features_UD[learned], sample.targets_U[learned], features_UD[held_out], sample.classes
        )
    return result


def predicted(
    model: Model, learned_UD: np.ndarray, targets_U: np.ndarray, asked_UD: np.ndarray, classes: int
) -> np.ndarray:
    """Log-probabilities (units asked, C) by a model that learned from these units. One that has met a single class, or
    fewer units than it needs, says what is commonest."""
    from sklearn.exceptions import ConvergenceWarning

    result = np.full((len(asked_UD), classes), np.log(LEAST))
    if len(set(targets_U)) < 2 or len(targets_U) <= NEIGHBOURS:
        result[:, np.bincount(targets_U, minlength=1).argmax()] = 0
        return result
    fitted = model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough after so many rounds
        warnings.filterwarnings("ignore", "The number of unique classes")  # many they are, with a row or two of each
        fitted.fit(learned_UD, targets_U)
    if len(asked_UD):
        result[:, fitted.classes_] = np.log(np.maximum(fitted.predict_proba(asked_UD), LEAST))
    return result
