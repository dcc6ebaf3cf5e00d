"""Charts as shapes in percent of their plot, so that pages of any width draw them with letters as large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what stands there."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """Points of a line as SVG has them, and its CSS class."""

    points: str
    look: str


@dataclass(frozen=True)
class Dot:
    """A point that says something when it is pointed at."""

    x: float
    y: float
    title: str
    look: str


@dataclass(frozen=True)
class Bar:
    """A rectangle that says something when it is pointed at; `y` is its upper edge."""

    x: float
    y: float
    width: float
    height: float
    title: str
    look: str


@dataclass(frozen=True)
class Chart:
    """One plot. `told` says in words what it shows, `legend` names the looks."""

    title: str
    told: str
    x_name: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as percent of a length."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Where the value lies."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self, form: str = "{:g}", whole: bool = False) -> list[Tick]:
        """About five round values."""
        from matplotlib.ticker import MaxNLocator

        # To ten digits: 0.30000000000000004 is told as 0.3.
        values = [
            float(f"{value:.10g}")
            for value in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(self.low, self.high)
        ]
        return [Tick(self(value), form.format(value)) for value in values if self.low <= value <= self.high]


def line(points: Iterable[tuple[float, float]], x: Scale, y: Scale, look: str) -> Line:
    """A line through the points."""
    return Line(" ".join(f"{x(one):g},{100 - y(other):g}" for one, other in points), look)
