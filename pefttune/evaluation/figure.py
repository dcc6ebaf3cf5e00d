"""One picture of a run: the learning curve, and the confusion matrices before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pefttune.evaluation.compare import Comparison

INK, GRID, BASE, ADAPTER = "#1f2933", "#d9dee3", "#8a94a0", "#0b6e99"
MOST_LABELS_WRITTEN = 12


def draw(
    path: Path,
    title: str,
    steps: Sequence[dict[str, float]],
    evaluations: Sequence[dict[str, Any]],
    comparison: Comparison,
    labels: Sequence[str],
) -> None:
    """Write the figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontweight="bold")
    curve, before, after = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _draw_curve(curve, steps, evaluations)
    base, adapter = comparison.base, comparison.adapter
    _draw_confusion(before, f"base, zero-shot: {base['accuracy']:.1%}", base["confusion"], labels, BASE)
    _draw_confusion(after, f"with adapter: {adapter['accuracy']:.1%}", adapter["confusion"], labels, ADAPTER)
    figure.savefig(path, metadata={"Software": None})


def _draw_curve(axes: Any, steps: Sequence[dict[str, float]], evaluations: Sequence[dict[str, Any]]) -> None:
    x = [record["step"] for record in steps]
    loss = [record["loss"] for record in steps]
    axes.plot(x, loss, color=BASE, linewidth=0.8, alpha=0.6, label="training loss")
    axes.plot(x, _smoothed(loss), color=INK, linewidth=1.6, label="training loss, smoothed")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per scored token")
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID, linewidth=0.6)
    accuracy = axes.twinx()
    accuracy.plot(
        [record["step"] for record in evaluations],
        [record["accuracy"] for record in evaluations],
        color=ADAPTER,
        marker="o",
        label="validation accuracy",
    )
    accuracy.set_ylabel("validation accuracy", color=ADAPTER)
    accuracy.set_ylim(0, 1)
    handles = [*axes.get_lines(), *accuracy.get_lines()]
    axes.legend(handles=handles, loc="center right", fontsize=8, framealpha=0.9)
    axes.set_title("learning", fontsize=10)


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smoothed, total = [], 0.0
    for count, value in enumerate(values, start=1):
        total = weight * total + (1 - weight) * value
        smoothed.append(total / (1 - weight**count))
    return smoothed


def _draw_confusion(axes: Any, title: str, matrix: Sequence[Sequence[int]], labels: Sequence[str], color: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares = [[cell / max(1, sum(row)) for cell in row] for row in matrix]
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("ink", ["white", color]), vmin=0, vmax=1)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) > MOST_LABELS_WRITTEN:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    # A label is no formula, also where it holds two dollar signs.
    axes.set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 3 else 0, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, rotation=90 if len(labels) <= 3 else 0, va="center", parse_math=False)
    for i, row in enumerate(matrix):
        for j, cell in enumerate(row):
            axes.text(j, i, str(cell), ha="center", va="center", color="white" if shares[i][j] > 0.6 else INK)
