"""What another model's predictions tell of the labels, whatever labels it predicts: LEEP and NCE.

Shapes: N rows, Z labels of that model.
"""

from __future__ import annotations

import numpy as np


def leep(chances_NZ: np.ndarray, classes_N: np.ndarray) -> float:
    """Mean log-likelihood of the labels, predicted through the other model's (Nguyen et al. 2020, arXiv:2002.12462).
    At most 0; greater is better."""
    joint = np.stack([chances_NZ[classes_N == one].sum(0) for one in np.unique(classes_N)])
    given = joint / np.maximum(joint.sum(0), 1e-300)
    _, own = np.unique(classes_N, return_inverse=True)
    return float(np.log((given[own] * chances_NZ).sum(1)).mean())


def nce(predicted_N: np.ndarray, classes_N: np.ndarray) -> float:
    """Minus the conditional entropy, in nats, of the labels given the other model's likeliest ones (Tran et al. 2019,
    arXiv:1908.08142). At most 0; greater is better."""
    _, z = np.unique(predicted_N, return_inverse=True)
    _, y = np.unique(classes_N, return_inverse=True)
    counts = np.zeros((z.max() + 1, y.max() + 1))
    np.add.at(counts, (z, y), 1)
    given = counts / counts.sum(1, keepdims=True)
    return float((counts * np.log(np.where(counts > 0, given, 1.0))).sum() / len(z))
