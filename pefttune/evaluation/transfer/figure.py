"""The picture of a probe: the learning curve with its interval, and bases and sources side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pefttune.evaluation.figure import ADAPTER, BASE, GRID, INK
from pefttune.evaluation.transfer.forecast import Forecast
from pefttune.evaluation.transfer.report import BaseFound, TransferReport


def draw_transfer(path: Path, report: TransferReport) -> None:
    """Write the figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.name}: what will transfer", color=INK, fontweight="bold", parse_math=False)
    best = report.bases[0].forecast
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1.0])
    if best is None:
        _draw_answers(left, report.bases)
    else:
        _draw_curve(left, best, report)
    _draw_ranking(right, report)
    figure.savefig(path, metadata={"Software": None})


def _draw_curve(axes: Any, forecast: Forecast, report: TransferReport) -> None:
    for measured, color, label in ((True, BASE, "linear probe, measured"), (False, ADAPTER, "adapter, forecast")):
        points = [point for point in forecast.curve if point.measured == measured]
        x = [point.rows for point in points]
        axes.fill_between(x, [p.low for p in points], [p.high for p in points], color=color, alpha=0.15, linewidth=0)
        axes.plot(x, [point.metric for point in points], color=color, marker="o", label=label)
    axes.axvline(report.training_rows, color=INK, linewidth=0.8, linestyle=":", label="the recipe's rows")
    axes.set_xscale("log")
    axes.set_xlabel("training rows")
    axes.set_ylabel(report.metric)
    axes.set_ylim(top=1)
    axes.grid(color=GRID, linewidth=0.6)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title(f"learning curve on {report.bases[0].source}", fontsize=10, parse_math=False)


def _draw_answers(axes: Any, bases: tuple[BaseFound, ...]) -> None:
    found = [(base.source, base.answers) for base in bases if base.answers]
    places = range(len(found))
    axes.barh([i - 0.2 for i in places], [each.own for _, each in found], 0.4, color=ADAPTER, label="own prompt")
    axes.barh([i + 0.2 for i in places], [each.others for _, each in found], 0.4, color=BASE, label="another's prompt")
    axes.set_yticks(list(places), [name for name, _ in found], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("log-likelihood of the answers, nats a token")
    axes.legend(fontsize=8)
    axes.set_title("answers of the untrained base", fontsize=10)


def _draw_ranking(axes: Any, report: TransferReport) -> None:
    foretold = [(base.source, base.forecast) for base in report.bases if base.forecast]
    if foretold:
        values = [forecast.metric for _, forecast in foretold]
        spread = [
            [forecast.metric - forecast.low for _, forecast in foretold],
            [forecast.high - forecast.metric for _, forecast in foretold],
        ]
        axes.barh([name for name, _ in foretold], values, xerr=spread, color=ADAPTER, ecolor=INK, capsize=3)
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"{report.metric}, forecast")
    else:
        matched = {base.source: base.answers.matched for base in report.bases if base.answers}
        axes.barh(list(matched), list(matched.values()), color=ADAPTER)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1)
        axes.set_xlabel("rows whose own answer is likelier than another's")
    axes.invert_yaxis()
    axes.set_title("bases, best first", fontsize=10)
