"""Where output goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from pefttune.errors import PefttuneError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Store = Annotated[str, typer.Option("--store", help="The store of adapters.")]
BaseFolder = Annotated[
    str | None, typer.Option("--base", help="Where the adapter's base lies, if this machine has not seen it.")
]


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    out.print(json.dumps(document, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)


def fail(error: PefttuneError, as_json: bool) -> int:
    """Tell an error; returns the exit code."""
    if as_json:
        print_json({"error": str(error), "kind": type(error).__name__})
    err.print("[bold red]error:[/]", end=" ")
    err.print(str(error), markup=False, soft_wrap=True)
    return error.exit_code


def percent(fraction: float) -> str:
    """`87.3 %`"""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """`+28.1`: percentage points with their sign."""
    return f"{100 * fraction:+.1f}"
