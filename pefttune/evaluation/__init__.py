"""Measuring: score, compare, probe, draw, report."""

from pefttune.evaluation.compare import Comparison, Difference, compare, interval, paired_difference
from pefttune.evaluation.figure import draw
from pefttune.evaluation.parity import Answers, Parity, answer, parity
from pefttune.evaluation.probe import Verdict, largest_difference, replay, take_probe, verify
from pefttune.evaluation.report import Findings, render_report
from pefttune.evaluation.scoring import Scored, judge, score, watch

__all__ = [
    "Answers",
    "Comparison",
    "Difference",
    "Findings",
    "Parity",
    "Scored",
    "Verdict",
    "answer",
    "compare",
    "draw",
    "interval",
    "judge",
    "largest_difference",
    "paired_difference",
    "parity",
    "render_report",
    "replay",
    "score",
    "take_probe",
    "verify",
    "watch",
]
