"""`pefttune export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pefttune.cli.output import BaseFolder, Json, Store, out, percent, print_json
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.pipeline import Exported


def export(
    name: Annotated[str, typer.Argument(help="An adapter: name, or name@version.")],
    to: Annotated[
        Literal["merged", "peft", "gguf", "ollama", "mlx"],
        typer.Option(
            "--to",
            help="merged: a model for transformers alone; peft, gguf, ollama, mlx: an adapter for PEFT alone, "
            "llama.cpp, Ollama, mlx-lm.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="The folder to write; by default exports/NAME-VERSION-FORM.")
    ] = None,
    into: Annotated[
        Literal["original", "dequantized"] | None,
        typer.Option("--into", help="Weights to merge into; by default those that it was trained on."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement", help="Share of answers in which the merged model has to agree; by default 0.95."
        ),
    ] = None,
    data_file: Annotated[
        str | None, typer.Option("--data", help="A labelled file to compare on; by default the recipe's test rows.")
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, help="Rows to compare on at most; by default all.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--from", help="What Ollama calls the base: a model of its own, or a GGUF file by the Modelfile."),
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    as_json: Json = False,
) -> None:
    """Write an adapter in another form. A merged model that does not answer as the adapter does is refused."""
    from pefttune import pipeline
    from pefttune import store as room
    from pefttune.cli.progress import Display

    found = room.find(Path(store), name)
    pinned = f"{found.parent.name}@{found.name}"  # a newer version may come in the meantime
    folder = output or Path("exports") / f"{found.parent.name}-{found.name}-{to}"
    _check_options(to, {"--from": model}, "ollama")
    gated = {"--into": into, "--min-agreement": min_agreement, "--data": data_file, "--max-rows": max_rows}
    _check_options(to, gated, "merged")
    if to == "merged":
        usual = pipeline.Gate.min_agreement
        gate = pipeline.Gate(usual if min_agreement is None else min_agreement, data_file, max_rows)
        with Display() as display:
            exported = pipeline.export_merged(pinned, folder, into, gate, Path(store), base, display)
    elif to == "peft":
        exported = pipeline.export_peft(pinned, folder, Path(store))
    else:
        exported = pipeline.export_converted(pinned, to, folder, Path(store), base, model)
    if as_json:
        print_json(_told(name, to, exported))
    else:
        _print(exported)


def _check_options(to: str, given: dict[str, Any], only: str) -> None:
    """Raise InputError where one of the options is given that go with one form `only`, and another is asked for."""
    if to != only and (wrong := [option for option, value in given.items() if value is not None]):
        raise InputError(f"{wrong[0]} goes with --to {only}")


def _told(name: str, to: str, exported: Exported) -> dict[str, Any]:
    parity = exported.parity and asdict(exported.parity)
    told = {"name": name, "to": to, "into": exported.into, "folder": str(exported.folder), "parity": parity}
    return {**told, "notes": list(exported.notes)}


def _print(exported: Exported) -> None:
    if (parity := exported.parity) is not None:
        out.print(
            f"merged into the {exported.into} weights: agrees with the adapter on its base in "
            f"{percent(parity.agreement)} of {parity.choices:,} {parity.counted}; {parity.metric} "
            f"{percent(parity.after)} instead of {percent(parity.before)}, scores up to {parity.largest:.2g} apart",
            soft_wrap=True,
        )
        if parity.distinct == 1 < parity.choices:
            out.print(
                f"note: it gave one answer to all {parity.counted}; only its scores tell that it is the same model"
            )
    for note in exported.notes:
        out.print(f"to know: {note}", soft_wrap=True)
    out.print(f"written: {exported.folder}", soft_wrap=True)
