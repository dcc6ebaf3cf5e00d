"""How training went: loss, watched metric and learning rate over the optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pefttune.evaluation.figure import smoothed
from pefttune.evaluation.report.chart import Bar, Chart, Dot, Scale, Tick, line
from pefttune.evaluation.report.wording import amount, percent
from pefttune.training import TrainingLog

MOST_POINTS = 200  # of a line: more cannot be told apart


def curves(log: TrainingLog, watched: str) -> list[Chart]:
    """The charts of a log; `watched` is how the metric is called by which the best weights were chosen."""
    steps = Scale(1, max(2, len(log.steps)))
    return [_loss(log.steps, steps), _watched(log, steps, watched), _rate(log.steps, steps)]


def _loss(steps: Sequence[dict[str, float]], x: Scale) -> Chart:
    raw, smooth = [record["loss"] for record in steps], smoothed([record["loss"] for record in steps])
    y = Scale(min([0.0, *raw]), max([1e-9, *raw]))
    parts = [part.tolist() for part in np.array_split(np.arange(len(raw)), min(len(raw), MOST_POINTS))]
    means = [(float(np.mean(part)) + 1, float(np.mean([raw[i] for i in part]))) for part in parts]
    told = [
        f"step {_span(part)}: loss {mean:.4g}, smoothed {smooth[part[-1]]:.4g}"
        for part, (_, mean) in zip(parts, means, strict=True)
    ]
    width = 100 / len(parts)
    return Chart(
        title="Training loss",
        told=f"Training loss over {amount(len(raw))} steps, smoothed: from {smooth[0]:.3g} to {smooth[-1]:.3g}.",
        x_name="optimizer step",
        x_ticks=x.ticks("{:,.0f}", whole=True),
        y_ticks=y.ticks(),
        bars=[Bar(round(i * width, 2), 0, round(width, 2), 100, title, "hover") for i, title in enumerate(told)],
        lines=[line(means, x, y, "quiet"), line([(part[-1] + 1, smooth[part[-1]]) for part in parts], x, y, "ink")],
        legend=[
            ("quiet", "per step" if len(parts) == len(raw) else f"mean of {len(parts[0])} steps"),
            ("ink", "smoothed"),
        ],
    )


def _span(part: Sequence[int]) -> str:
    return f"{part[0] + 1}" if len(part) == 1 else f"{part[0] + 1} to {part[-1] + 1}"


def _watched(log: TrainingLog, x: Scale, name: str) -> Chart:
    values = [(record["step"], float(record[record["watched"]])) for record in log.evaluations]
    lowest, highest = min(value for _, value in values), max(value for _, value in values)
    share = lowest >= 0 and highest <= 1
    room = max(0.1 * (highest - lowest), 0.01 * abs(highest), 1e-3)
    y = Scale(max(0, lowest - room), min(1, highest + room)) if share else Scale(lowest - room, highest + room)
    tell = percent if share else "{:.4g}".format
    dots = [
        Dot(x(step), 100 - y(value), f"step {step}: {tell(value)}", "best" if step == log.best_step else "adapter")
        for step, value in values
    ]
    return Chart(
        title=f"Validation {name}",
        told=f"Validation {name} at {len(values)} evaluations: "
        + ", ".join(f"{tell(value)} at step {step}" for step, value in values[:: max(1, len(values) // 8)])
        + ".",
        x_name="optimizer step",
        x_ticks=x.ticks("{:,.0f}", whole=True),
        y_ticks=y.ticks("{:.4g}") if not share else _percent_ticks(y),
        lines=[line(values, x, y, "adapter")],
        dots=dots,
        legend=[("adapter", "evaluation"), ("best", f"kept: step {log.best_step}")],
    )


def _percent_ticks(y: Scale) -> list[Tick]:
    return Scale(100 * y.low, 100 * y.high).ticks("{:g} %")


def _rate(steps: Sequence[dict[str, float]], x: Scale) -> Chart:
    rates = [record["learning_rate"] for record in steps]
    y = Scale(0, max([1e-12, *rates]))
    kept = sorted({round(i) for i in np.linspace(0, len(rates) - 1, min(len(rates), MOST_POINTS))})
    return Chart(
        title="Learning rate",
        told=f"The learning rate: at most {max(rates):.3g}, at the end {rates[-1]:.3g}.",
        x_name="optimizer step",
        x_ticks=x.ticks("{:,.0f}", whole=True),
        y_ticks=y.ticks(),
        lines=[line([(i + 1, rates[i]) for i in kept], x, y, "ink")],
    )
