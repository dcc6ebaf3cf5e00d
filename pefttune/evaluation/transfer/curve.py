"""Learning curves: error falls as a power of the rows learned from (Hestness et al. 2017, arXiv:1712.00409)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_ERROR = 1e-3
# Exponents of real tasks lie between 0.07 and 0.35 (the same paper): what is believed before anything is measured.
USUAL_EXPONENT, SPREAD_OF_EXPONENTS = 0.2, 0.1
LEAST_NOISE = 0.01


@dataclass(frozen=True)
class PowerLaw:
    """error = scale · rows ** -exponent."""

    scale: float
    exponent: float

    def error(self, rows: float) -> float:
        """The error after so many rows, at most 1."""
        return min(float(self.scale * rows**-self.exponent), 1.0)

    def rows_for(self, error: float) -> float | None:
        """How many rows bring the error down to this; None where no number does."""
        if error <= 0 or self.exponent < 1e-3:
            return None
        return float((self.scale / error) ** (1 / self.exponent))


def fit(rows: Sequence[float], errors: np.ndarray, noise: float) -> PowerLaw:
    """The power law through measured errors, whose logarithms have a `noise` of that standard deviation.

    The exponent is the mean of its posterior, normal prior and noise taken for granted; the law goes through the
    centre of the points, of which those of more rows weigh more. Error never grows with rows.
    """
    x, y = np.log(rows), np.log(np.maximum(errors, LEAST_ERROR))
    spread = ((x - x.mean()) ** 2).sum()
    measured = -((x - x.mean()) * (y - y.mean())).sum() / spread
    precision, prior = spread / max(noise, LEAST_NOISE) ** 2, 1 / SPREAD_OF_EXPONENTS**2
    exponent = max(0.0, float((precision * measured + prior * USUAL_EXPONENT) / (precision + prior)))
    centre, mean = np.average(x, weights=rows), np.average(y, weights=rows)
    return PowerLaw(float(np.exp(mean + exponent * centre)), exponent)
