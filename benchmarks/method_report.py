"""What `benchmarks.methods` found: a Markdown table for each task, and a figure of metric against parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from benchmarks.settings import TASKS

Cell = dict[str, Any]
COLUMNS = ("method", "{metric} (%)", "runs", "trained parameters", "seconds", "peak MiB", "file KiB")
INK, GRID, POINT = "#1f2933", "#d9dee3", "#0b6e99"


def write(cells: Sequence[Cell], path: Path) -> str:
    """The tables, best method first; written to `path`, too."""
    text = "\n".join(table(task, own) for task, own in by("task", cells).items())
    path.write_text(text, encoding="utf-8", newline="\n")
    return text


def table(task: str, cells: Sequence[Cell]) -> str:
    """One task's table under its title, which says what a cell is."""
    one = cells[0]
    others = ", ".join(f"{name} {value:.1%}" for name, value in one["others"].items())
    title = (
        f"{TASKS[task].title}: {one['data']['train']:,} training rows, {one['steps']} steps, "
        f"{one['data']['test']:,} test rows, {one['threads']} thread{'s' if one['threads'] > 1 else ''} ({others})"
    )
    methods = sorted(by("method", cells).items(), key=lambda each: -mean(cell["score"] for cell in each[1]))
    header = " | ".join(COLUMNS).format(metric=one["metric"])
    lines = [f"| {header} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += [f"| {' | '.join([f'`{method}`', *row(own)])} |" for method, own in methods]
    return f"**{title}**\n\n" + "\n".join(lines) + "\n"


def row(cells: Sequence[Cell]) -> list[str]:
    """The runs of a method: mean and standard deviation of the metric, medians of the rest."""
    scores = [100 * cell["score"] for cell in cells]
    spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
    middle = {key: median(cell[key] for cell in cells) for key in ("parameters", "seconds", "peak_mib", "file_bytes")}
    return [
        f"{mean(scores):.1f}{spread}",
        str(len(scores)),
        f"{middle['parameters']:,.0f}",
        f"{middle['seconds']:,.0f}",
        f"{middle['peak_mib']:,.0f}",
        f"{middle['file_bytes'] / 1024:,.0f}",
    ]


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Metric against trained parameters, a panel for each task; bars are the standard deviation over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = by("task", cells)
    figure = Figure(figsize=(7 * len(tasks), 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, own) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        axes.set_title(TASKS[task].title, color=INK)
        parameters = [cell["parameters"] for cell in own]
        axes.set_xscale("log")
        axes.set_xlim(min(parameters) / 2, max(parameters) * 2)
        axes.set_xlabel("trained parameters")
        axes.set_ylabel(f"{own[0]['metric']} (%)")
        axes.grid(color=GRID)
        for method, runs in by("method", own).items():
            scores = [100 * cell["score"] for cell in runs]
            place = (runs[0]["parameters"], mean(scores))
            axes.errorbar(*place, yerr=stdev(scores) if len(scores) > 1 else None, fmt="o", color=POINT, capsize=3)
            axes.annotate(method, place, xytext=(5, 4), textcoords="offset points", fontsize=8, color=INK)
    figure.savefig(path, metadata={"Software": None})


def by(key: str, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by what they say of `key`, in the order in which these come first."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell[key], []).append(cell)
    return groups
