"""H-score: how much of the features' spread lies between classes (Bao et al. 2019)."""

from __future__ import annotations

import numpy as np


def h_score(features_ND: np.ndarray, classes_N: np.ndarray) -> float:
    """Trace of the inverse covariance times that of the class means, with the shrinkage of Ledoit and Wolf, without
    which it only grows with the width of the features (Ibrahim et al. 2021, arXiv:2110.06893). Greater is better."""
    from sklearn.covariance import ledoit_wolf

    centred = features_ND.astype(np.float64) - features_ND.mean(0, dtype=np.float64)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for one in np.unique(classes_N):
        means[classes_N == one] = centred[classes_N == one].mean(0)
    between = means.T @ means / len(means)
    return float((1 - shrinkage) * np.trace(np.linalg.solve(covariance, between)))
