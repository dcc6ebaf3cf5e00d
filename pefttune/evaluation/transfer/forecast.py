"""What training will reach: the error of a linear probe, followed along its learning curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from pefttune.evaluation.transfer.curve import LEAST_ERROR, PowerLaw, fit
from pefttune.evaluation.transfer.probes import FOLDS

SHARES = {1 / 8: 4, 1 / 4: 4, 1 / 2: 2, 1: 1}
"""The parts of the sample that the curve is measured at, and how many of each: chance is great where rows are few."""
# How far the error of a trained adapter is from the one foretold: root mean square of the logarithm of their ratio,
# over the pairs of `python -m benchmarks.transfer`.
SPREAD = 0.4
RESAMPLES = 400
GAIN = 0.02

Judge = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Point:
    """The metric after training on so many rows: of the probe where it was `measured`, else forecast of the adapter."""

    rows: int
    metric: float
    low: float
    high: float
    measured: bool


@dataclass(frozen=True)
class Forecast:
    """The metric that training is expected to reach, with its interval, and the curve it comes from.

    `probe` is the metric of a linear probe on the sample. `more_rows` are those that two points more would take, None
    where no number of rows is foreseen to give them.
    """

    metric: float
    low: float
    high: float
    rows: int
    confidence_level: float
    probe: float
    exponent: float
    curve: tuple[Point, ...]
    more_rows: int | None


def forecast(
    tallies: Sequence[np.ndarray], judge: Judge, sampled: int, rows: int, confidence: float, seed: int, *, tuned: bool
) -> Forecast:
    """From the probe's tallies (parts, rows of the sample, K) at each of `SHARES` to training on `rows` rows.

    `judge` makes the metric of summed tallies; `tuned` says whether more than a head is trained. The interval holds
    what the choice of sampled rows leaves open (bootstrap over rows) and, if `tuned`, how far adapters were from such
    forecasts.
    """
    learned = [max(2.0, share * sampled * (FOLDS - 1) / FOLDS) for share in SHARES]
    whole = np.array([float(judge(each.sum(1)).mean()) for each in tallies])
    rng = np.random.default_rng(seed)
    times = rng.multinomial(sampled, np.full(sampled, 1 / sampled), size=RESAMPLES).astype(float)
    resampled = np.stack([judge(times @ each).mean(0) for each in tallies])  # shares, resamples
    noise = float(np.log(np.maximum(1 - resampled[-1], LEAST_ERROR)).std())
    law = fit(learned, 1 - whole, noise)
    laws = [fit(learned, 1 - each, noise) for each in resampled.T]
    spread = SPREAD if tuned else 0.0
    margin = norm.ppf((1 + confidence) / 2)

    def ahead(at: int) -> Point:
        error = law.error(at)
        deviation = float(np.hypot(np.std(np.log([max(each.error(at), LEAST_ERROR) for each in laws])), spread))
        factor = float(np.exp(margin * deviation))
        return Point(at, 1 - error, max(0.0, 1 - error * factor), 1 - error / factor, False)

    edges = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    measured = [
        Point(round(n), float(metric), float(low), float(high), True)
        for n, metric, low, high in zip(learned, whole, *edges, strict=True)
    ]
    final = ahead(rows)
    further = [ahead(round(rows * factor)) for factor in (0.25, 0.5, 1, 2, 4)]
    return Forecast(
        final.metric,
        final.low,
        final.high,
        rows,
        confidence,
        float(whole[-1]),
        law.exponent,
        (*measured, *further),
        _more_rows(law, rows),
    )


def _more_rows(law: PowerLaw, rows: int) -> int | None:
    wanted = law.rows_for(law.error(rows) - GAIN)
    return None if wanted is None or wanted > 1000 * rows else round(wanted) - rows
