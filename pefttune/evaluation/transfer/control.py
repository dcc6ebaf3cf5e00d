"""Are there labels to be found in the features at all? The same probe on shuffled labels tells."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from pefttune.data import UNKNOWN
from pefttune.evaluation.transfer.probes import linear, predicted
from pefttune.evaluation.transfer.sample import Sample

SHUFFLES = 19
# A further value of a normal distribution, known by 19 of its values, lies that far above them once in 1,900 times.
DEVIATIONS = 4
MOST_UNITS = 1000


@dataclass(frozen=True)
class Control:
    """Mean recall over the classes, by a linear probe on the real labels and on shuffled ones."""

    real: float
    shuffled: tuple[float, ...]

    @property
    def chance(self) -> float:
        """What labels that mean nothing come to."""
        return mean(self.shuffled)

    @property
    def deviation(self) -> float:
        """How far one shuffle is from another."""
        return stdev(self.shuffled)

    @property
    def transfers(self) -> bool:
        """Whether the real labels are found better than shuffles make likely."""
        return self.real > self.chance + DEVIATIONS * self.deviation


def control(sample: Sample, features_UD: np.ndarray, seed: int) -> Control:
    """Real labels against shuffled ones: two halves of the rows, each predicted from the other."""
    known = np.flatnonzero(sample.targets_U != UNKNOWN)[:MOST_UNITS]
    features, classes, half = features_UD[known], sample.targets_U[known], sample.rows_U[known] % 2
    rng = np.random.default_rng(seed)
    shuffled = [_score(features, rng.permutation(classes), half, sample.classes) for _ in range(SHUFFLES)]
    return Control(_score(features, classes, half, sample.classes), tuple(shuffled))


def _score(features_UD: np.ndarray, classes_U: np.ndarray, half_U: np.ndarray, classes: int) -> float:
    said = np.empty_like(classes_U)
    for half in (0, 1):
        learned, asked = half_U != half, half_U == half
        chances = predicted(linear, features_UD[learned], classes_U[learned], features_UD[asked], classes)
        # By how common a class is, too: else a rare one is never said, and all shuffles come to the same.
        common = np.bincount(classes_U[learned], minlength=classes)
        said[asked] = (chances - np.log(np.maximum(common, 1))).argmax(1)
    return float(np.mean([(said[classes_U == one] == one).mean() for one in np.unique(classes_U)]))
