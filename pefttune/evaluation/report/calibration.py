"""Can the confidence be trusted? Predicted confidence beside the share of rows that were right, in bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pefttune.evaluation.report.chart import Bar, Chart, Dot, Line, Scale, Tick
from pefttune.evaluation.report.findings import Findings
from pefttune.evaluation.report.wording import amount, percent

BINS = 15  # as the tasks' calibration error has
TENTHS = [Tick(at, f"{at} %") for at in range(0, 101, 20)]


@dataclass(frozen=True)
class Bin:
    """Rows whose confidence is at least `low` and less than `high`, which the last bin holds too."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Bins that hold a row; `error` is the expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

    error: float
    rows: int
    bins: tuple[Bin, ...]

    def charts(self) -> list[Chart]:
        """The reliability diagram, and how many rows each bin holds."""
        return [_reliability(self), _histogram(self)]


def calibration(findings: Findings) -> Calibration | None:
    """That of the adapter; None for a task whose rows are not either right or wrong."""
    right = findings.row_scores(findings.adapter)
    if not np.isin(right, (0.0, 1.0)).all():
        return None
    confidence = np.array([prediction.confidence for prediction in findings.adapter.predictions])
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    bins = [
        Bin(low, high, int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for low, high, inside in zip(edges, edges[1:], (place == i for i in range(BINS)), strict=False)
        if inside.any()
    ]
    error = sum(b.rows * abs(b.accuracy - b.confidence) for b in bins) / len(right)
    return Calibration(error, len(right), tuple(bins))


def _told(b: Bin) -> str:
    share = f"mean confidence {percent(b.confidence)}, right {percent(b.accuracy)}"
    return f"confidence {100 * b.low:.0f} to {100 * b.high:.0f} %: {amount(b.rows)} rows, {share}"


def _place(b: Bin) -> tuple[float, float]:
    """Left edge and width of a bin in percent, with a gap to its neighbours."""
    return round(100 * b.low + 0.4, 2), round(100 * (b.high - b.low) - 0.8, 2)


def _reliability(found: Calibration) -> Chart:
    bars, dots = [], []
    for b in found.bins:
        (x, width), height = _place(b), round(100 * b.accuracy, 2)
        bars.append(Bar(x, round(100 - height, 2), width, height, _told(b), "adapter"))
        dots.append(Dot(round(100 * b.confidence, 2), round(100 - height, 2), _told(b), "ink"))
    return Chart(
        title="Share of rows that are right",
        told=f"Reliability diagram: {'; '.join(map(_told, found.bins))}.",
        x_name="confidence of the prediction",
        x_ticks=TENTHS,
        y_ticks=TENTHS,
        bars=bars,
        lines=[Line("0,100 100,0", "dashed")],
        dots=dots,
        legend=[("adapter", "right"), ("dashed", "perfectly calibrated"), ("dot", "mean confidence in the bin")],
    )


def _histogram(found: Calibration) -> Chart:
    y = Scale(0, max(b.rows for b in found.bins))
    bars = []
    for b in found.bins:
        (x, width), all_high = _place(b), y(b.rows)
        wrong_high = round(all_high * (1 - b.accuracy), 2)
        wrong = round(b.rows * (1 - b.accuracy))
        told = f"confidence {100 * b.low:.0f} to {100 * b.high:.0f} %"
        right_high = round(all_high - wrong_high, 2)
        bars.append(Bar(x, round(100 - all_high, 2), width, right_high, f"{told}: {b.rows - wrong} rows right", "good"))
        bars.append(Bar(x, round(100 - wrong_high, 2), width, wrong_high, f"{told}: {wrong} rows wrong", "bad"))
    return Chart(
        title="Rows by confidence",
        told=f"Histogram of the confidence of {amount(found.rows)} predictions, the right ones apart from the wrong.",
        x_name="confidence of the prediction",
        x_ticks=TENTHS,
        y_ticks=y.ticks("{:,.0f}", whole=True),
        bars=bars,
        legend=[("good", "right"), ("bad", "wrong")],
    )
