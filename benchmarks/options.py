"""Options that the commands share, and how an error ends one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.errors import BenchmarkError
from benchmarks.peers import PEERS
from pefttune.errors import PefttuneError

PeerName = Annotated[str, typer.Option(help=f"{', '.join(PEERS)}.")]
PeerPython = Annotated[str | None, typer.Option(help="Python of the peer's own environment.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="File for everything that was found.")]
Rounds = Annotated[int, typer.Option(min=1, help="Pairs of fresh processes.")]
Steps = Annotated[int, typer.Option(min=1, help="Timed optimizer steps in each process.")]
Warmup = Annotated[int, typer.Option(min=1, help="Steps before those; the first one is compared.")]
Rows = Annotated[int | None, typer.Option(min=1, help="Examples in a step; by default the workload's.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each process.")]
Data = Annotated[Path | None, typer.Option(envvar="PEFTTUNE_DATA", help="Folder of data that does not come along.")]
KeepFreed = Annotated[bool, typer.Option(help="Let the peer's allocator keep freed memory, as ours does.")]


@contextmanager
def told_plainly() -> Iterator[None]:
    """An error that is a sentence ends the command with it."""
    try:
        yield
    except (BenchmarkError, PefttuneError) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from None
