"""LogME: how well a Bayesian linear model on frozen features explains the labels (You et al. 2021, arXiv:2102.11005).

Shapes: N units, D the width of the features, C classes.
"""

from __future__ import annotations

import numpy as np

MOST_ROUNDS = 100


def logme(features_ND: np.ndarray, classes_N: np.ndarray) -> float:
    """Largest log-evidence per unit, averaged over the classes, each against all others. Greater is better."""
    features = features_ND.astype(np.float64)
    left_NK, sizes_K, _ = np.linalg.svd(features, full_matrices=False)
    each = [_evidence((classes_N == one).astype(float), left_NK, sizes_K**2) for one in np.unique(classes_N)]
    return float(np.mean(each)) / len(features)


def _evidence(target_N: np.ndarray, left_NK: np.ndarray, spectrum_K: np.ndarray) -> float:
    """Log-evidence of a linear model with a normal prior of precision alpha and normal noise of precision beta, at the
    greatest: by MacKay's fixed point in their ratio (You et al. 2022, arXiv:2110.10545)."""
    n = len(target_N)
    inside_K = (left_NK.T @ target_N) ** 2
    outside = max(float(target_N @ target_N - inside_K.sum()), 0.0)
    ratio = 1.0
    for _ in range(MOST_ROUNDS):
        kept_K = spectrum_K / (spectrum_K + ratio)
        size = float((spectrum_K * inside_K / (spectrum_K + ratio) ** 2).sum())
        misfit = float((inside_K * (1 - kept_K) ** 2).sum()) + outside
        alpha = kept_K.sum() / max(size, 1e-12)
        beta = (n - kept_K.sum()) / max(misfit, 1e-12)
        before, ratio = ratio, alpha / beta
        if abs(np.log(ratio / before)) < 1e-6:
            break
    determinant = float(np.log1p(spectrum_K * beta / alpha).sum())
    return float(n * np.log(beta / (2 * np.pi)) - determinant - beta * misfit - alpha * size) / 2
