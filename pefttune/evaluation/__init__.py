"""Measuring: score, compare, probe, draw."""

from pefttune.evaluation.compare import Comparison, Difference, compare, paired_difference
from pefttune.evaluation.figure import draw
from pefttune.evaluation.probe import largest_difference, take_probe, verify
from pefttune.evaluation.scoring import Scored, judge, score, watch

__all__ = [
    "Comparison",
    "Difference",
    "Scored",
    "compare",
    "draw",
    "judge",
    "largest_difference",
    "paired_difference",
    "score",
    "take_probe",
    "verify",
    "watch",
]
