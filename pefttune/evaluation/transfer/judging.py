"""One base judged by its views of a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pefttune.data import UNKNOWN
from pefttune.evaluation.transfer.control import Control, control
from pefttune.evaluation.transfer.forecast import SHARES, Forecast, forecast
from pefttune.evaluation.transfer.h_score import h_score
from pefttune.evaluation.transfer.logme import logme
from pefttune.evaluation.transfer.probes import cross_predicted, linear, nearest
from pefttune.evaluation.transfer.report import ViewScores
from pefttune.evaluation.transfer.sample import Sample
from pefttune.inference import View

MOST_ROWS_TO_RANK_WORDS = 150  # some thousand words rank views as well as all of them


@dataclass(frozen=True)
class Judged:
    """Views, best first, the forecast by the best one, and its control."""

    views: tuple[ViewScores, ...]
    forecast: Forecast
    control: Control


@dataclass(frozen=True)
class Training:
    """What is known of the training that a probe foretells: its rows, and whether more than a head learns, which then
    reads `head` views of the last layer only."""

    rows: int
    tuned: bool


def judge(
    sample: Sample,
    views: Mapping[View, np.ndarray],
    training: Training,
    confidence: float,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Judged:
    """Rank the views (U, D) of a base, and foretell what the training reaches by the best. `progress` is told how many
    views are done."""
    few = _first_rows(sample)
    scores: dict[View, ViewScores] = {}
    for done, (view, features) in enumerate(views.items(), start=1):
        scores[view] = _scores(few, view, features[: len(few.targets_U)])
        progress(done)
    ranked = sorted(scores, key=lambda view: -scores[view].linear)
    best = ranked[0] if training.tuned else max(views, key=lambda view: (view.layer, view.pooling == "head"))
    features = views[best]
    tallies = [
        np.stack([sample.tallies(cross_predicted(linear, sample, features, share, part)) for part in range(parts)])
        for share, parts in SHARES.items()
    ]
    foretold = forecast(
        tallies, sample.task.primary_of, len(sample.rows), training.rows, confidence, seed, tuned=training.tuned
    )
    return Judged(tuple(scores[view] for view in ranked), foretold, control(sample, features, seed))


def _first_rows(sample: Sample) -> Sample:
    """Where each row has many units, its first rows; else all."""
    if len(sample.targets_U) == len(sample.rows):
        return sample
    return Sample(sample.task, sample.rows[:MOST_ROWS_TO_RANK_WORDS], sample.encoded[:MOST_ROWS_TO_RANK_WORDS])


def _scores(sample: Sample, view: View, features_UD: np.ndarray) -> ViewScores:
    known = sample.targets_U != UNKNOWN
    return ViewScores(
        str(view),
        logme(features_UD[known], sample.targets_U[known]),
        h_score(features_UD[known], sample.targets_U[known]),
        sample.metric(cross_predicted(linear, sample, features_UD)),
        sample.metric(cross_predicted(nearest, sample, features_UD)),
    )
