"""Where output goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.segment import Segment

_T = TypeVar("_T")


STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys, or reads from right to left; not the line break and the tab."""


class _Plain(Console):
    """Shows texts of adapters and data, whoever wrote them: what would steer the terminal is escaped as in JSON."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(STEERING.sub(_escaped, segment.text), segment.style)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class _Results(_Plain):
    def on_broken_pipe(self) -> None:
        """`pefttune list | head`: the reader has seen enough, which is no failure (rich's own exit code says it is)."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


# Texts and labels go through these: what looks like rich's markup (`[bold]`) or an emoji (`:smile:`) stays as it is.
out = _Results(highlight=False, markup=False, emoji=False)
err = _Plain(stderr=True, highlight=False, markup=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Store = Annotated[str, typer.Option("--store", help="The store of adapters.")]
BaseFolder = Annotated[
    str | None, typer.Option("--base", help="Where the adapter's base lies, if this machine has not seen it.")
]


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    out.print(to_json(document, indent=2), soft_wrap=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON for stdout: in ASCII where stdout cannot hold every character."""
    from pefttune.data.content import plain  # a Parquet file may hold dates

    return json.dumps(value, indent=indent, ensure_ascii=out.encoding != "utf-8", default=plain)


class Failure(Protocol):
    """An error that has its own exit code."""

    exit_code: int


def fail(error: Failure, as_json: bool) -> int:
    """Tell an error; returns the exit code."""
    if as_json:
        print_json({"error": str(error), "kind": type(error).__name__})
    err.print("error:", style="bold red", end=" ")
    err.print(str(error), soft_wrap=True)
    return error.exit_code


def percent(fraction: float) -> str:
    """`87.3 %`"""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """`+28.1`: percentage points with their sign."""
    return f"{100 * fraction:+.1f}"


def counted(rows: Iterable[_T]) -> Iterator[_T]:
    """The rows, with their number and rate on the terminal: of a stream nobody knows how many will come."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows, {task.fields[rate]:.1f} a second"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("", total=None, rate=0.0)
        for row in rows:
            yield row
            progress.update(bar, advance=1, rate=progress.tasks[0].speed or 0.0)


def example_texts(inputs: Sequence[str]) -> str:
    """What follows `pefttune predict NAME` for an adapter that reads these columns."""
    return '"…"' if len(inputs) == 1 else " ".join(f'{column}="…"' for column in inputs)
