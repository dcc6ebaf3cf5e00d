"""`pefttune check`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from pefttune.cli.output import Json, Store, out, print_json

SAYS = {"refuses": "refused", "else": "wrong", "know": "to know"}


def check(
    name: Annotated[str, typer.Argument(help="An adapter: name, or name@version.")],
    target: Annotated[
        Literal["vllm", "peft", "llama.cpp", "mlx"], typer.Option("--target", help="Who is to load the adapter.")
    ],
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Tell what another program would refuse of an adapter, or compute otherwise. Exits with 1 where it would."""
    from pefttune import store as room

    room.find(Path(store), name)  # a wrong name is told before torch is imported

    from pefttune import pipeline

    objections = pipeline.check(name, target, Path(store))
    if as_json:
        told = [asdict(objection) for objection in objections]
        print_json({"name": name, "target": target, "objections": told})
    for objection in () if as_json else objections:
        out.print(f"{SAYS[objection.kind]}: {objection.cause}. Mend: {objection.mend}.", soft_wrap=True)
    if any(objection.harms for objection in objections):
        raise typer.Exit(1)
    if not as_json:
        out.print(f"{target} loads {name} as it was trained{', once that is known' if objections else ''}")
