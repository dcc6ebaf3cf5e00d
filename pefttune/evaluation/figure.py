"""One picture of a run: the learning curve, and confusion matrices before and after, or metrics side by side."""

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
    """Write the figure as PNG; without a learning curve where there are no steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontweight="bold")
    matrices = {name: metrics for name, metrics in comparison.everybody.items() if "confusion" in metrics}
    shown = [*list(matrices)[:1], *list(matrices)[-1:]]
    widths = [1.5] * bool(steps) + [1.0] * (len(shown) or 1)
    panels = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    if steps:
        _draw_curve(panels.pop(0), steps, evaluations)
    if not shown:
        _draw_bars(panels[0], comparison)
    for axes, name, color in zip(panels, shown, (BASE, ADAPTER), strict=False):
        metrics = matrices[name]
        _draw_confusion(axes, f"{name}: {metrics[comparison.primary]:.1%}", metrics["confusion"], labels, color)
    figure.savefig(path, metadata={"Software": None})


def _draw_curve(axes: Any, steps: Sequence[dict[str, float]], evaluations: Sequence[dict[str, Any]]) -> None:
    x = [record["step"] for record in steps]
    loss = [record["loss"] for record in steps]
    axes.plot(x, loss, color=BASE, linewidth=0.8, alpha=0.6, label="training loss")
    axes.plot(x, smoothed(loss), color=INK, linewidth=1.6, label="training loss, smoothed")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per scored position")
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID, linewidth=0.6)
    watched = axes.twinx()
    name = evaluations[0]["watched"] if evaluations else ""
    values = [record[name] for record in evaluations]
    told = f"validation {name.replace('_', ' ')}"
    watched.plot([record["step"] for record in evaluations], values, color=ADAPTER, marker="o", label=told)
    watched.set_ylabel(told, color=ADAPTER)
    if all(0 <= value <= 1 for value in values):
        watched.set_ylim(0, 1)
    handles = [*axes.get_lines(), *watched.get_lines()]
    axes.legend(handles=handles, loc="center right", fontsize=8, framealpha=0.9)
    axes.set_title("learning", fontsize=10)


def _draw_bars(axes: Any, comparison: Comparison) -> None:
    """The shown metrics of everybody, side by side."""
    height = 0.8 / len(comparison.everybody)
    for i, (name, metrics) in enumerate(comparison.everybody.items()):
        color = ADAPTER if i == len(comparison.everybody) - 1 else (BASE, GRID)[i % 2]
        places = [row + i * height for row in range(len(comparison.shown))]
        bars = axes.barh(places, [metrics[key] for key in comparison.shown], height, color=color, label=name)
        axes.bar_label(bars, fmt="{:.1%}", fontsize=8, padding=3)
    middle = 0.4 - height / 2
    axes.set_yticks([row + middle for row in range(len(comparison.shown))], comparison.shown.values())
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title(f"on {comparison.rows:,} held-out rows", fontsize=10)


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
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
