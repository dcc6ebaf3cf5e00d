"""A picture of a sweep: the metric against what it costs in parameters, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from pefttune.pipeline import Tried
from pefttune.recipe import METHOD
from pefttune.sweep.trial import Trial

MARKERS = {Fraction(1): "o", Fraction(1, 3): "^", Fraction(1, 9): "s"}
STEPS = {Fraction(1): "all steps", Fraction(1, 3): "a third of the steps", Fraction(1, 9): "a ninth of the steps"}
ROOM = 1.15
"""Of an axis from 0, so that the numbers beside the last points are seen."""

NEAR = 30
"""Points that are less than such a part of the axis apart are named at one place."""


def draw(path: Path, metric: str, trials: Sequence[Trial]) -> None:
    """Write the figure as PNG. A trial stands where its longest training came to; hollow, where the cost is not its
    own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    shown = [(trial, trial.last) for trial in trials if isinstance(trial.last, Tried)]
    costs = {
        "trainable parameters": [float(last.parameters) for _, last in shown],
        "seconds of that training": [last.seconds / last.together for _, last in shown],
        "peak memory, MiB": [last.peak_mib for _, last in shown],
    }
    for axes, (name, values) in zip(panels, costs.items(), strict=True):
        _draw_panel(axes, shown, values, own="parameters" in name)
        axes.set_xlabel(name)
        if "parameters" not in name:
            axes.set_xlim(0, ROOM * max(values))
    panels[0].set_xscale("log")
    panels[0].set_ylabel(f"validation {metric.replace('_', ' ')}")
    figure.legend(handles=_legend([trial for trial, _ in shown]), loc="outside lower center", ncols=8, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def _colors(trials: Sequence[Trial]) -> dict[str, str]:
    """One for each method, where several are tried."""
    methods = sorted({trial.variant.settings.get(METHOD, "") for trial in trials})
    return {method: f"C{number}" for number, method in enumerate(methods)}


def _draw_panel(axes: Any, shown: Sequence[tuple[Trial, Tried]], costs: Sequence[float], *, own: bool) -> None:
    from pefttune.evaluation.figure import GRID, INK

    colors = _colors([trial for trial, _ in shown])
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    named: dict[tuple[int, float], tuple[tuple[float, float], list[str]]] = {}
    for (trial, last), cost in zip(shown, costs, strict=True):
        color = colors[trial.variant.settings.get(METHOD, "")]
        inside = color if own or last.together == 1 else "none"
        axes.scatter(cost, last.metric, marker=MARKERS[trial.share], s=60, edgecolors=color, facecolors=inside)
        near = round(NEAR * cost / max(costs)), last.metric
        named.setdefault(near, ((cost, last.metric), []))[1].append(str(trial.number))
    for place, numbers in named.values():
        axes.annotate(", ".join(numbers), place, (5, 5), textcoords="offset points", fontsize=8, color=INK)


def _legend(trials: Sequence[Trial]) -> list[Any]:
    from matplotlib.lines import Line2D

    from pefttune.evaluation.figure import BASE

    shares = sorted({trial.share for trial in trials}, reverse=True)
    steps = [Line2D([], [], color=BASE, linestyle="", marker=MARKERS[share], label=STEPS[share]) for share in shares]
    if any(isinstance(trial.last, Tried) and trial.last.together > 1 for trial in trials):
        steps.append(
            Line2D([], [], color=BASE, linestyle="", marker="o", fillstyle="none", label="hollow: shared cost")
        )
    named = {method: color for method, color in _colors(trials).items() if method}
    return [Line2D([], [], color=c, linestyle="", marker="o", label=method) for method, c in named.items()] + steps
