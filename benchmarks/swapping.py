"""`python -m benchmarks.swapping`: adapters read from disk and switched on a resident base, beside plain PEFT.

Both sides hold the same base in this process and take turns with every adapter of a store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks import machine, report
from benchmarks.comparing import ratio
from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice
from benchmarks.options import JsonFile, Threads, told_plainly

TOLERANCE = 1e-3  # logits in float32, through all layers
TEXT = "The battery died after a week in Paris, and nobody at Acme answered."


def seconds(act: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def both_sides(folders: list[Path]) -> tuple[Any, Any]:
    """A session and PEFT's model, each with all adapters on its own copy of the quantized base, in float32."""
    from peft import PeftModel

    from benchmarks.programs.padded_scores import load_model
    from pefttune import bases, store
    from pefttune.inference import Session
    from pefttune.recipe import schema

    source = store.read_manifest(folders[0])["base"]["source"]
    session = Session(bases.load(schema.Base(source=source, quantization="nf4", dtype="float32", device="cpu")))
    base = BaseChoice(str(bases.locate(source).folder), dtype="float32")
    plain = load_model({"base": asdict(base), "settings": {"canonical": True}, "adapter": None})
    model = None
    for folder in folders:
        session.load(folder, folder.parent.name)
        if model is None:
            model = PeftModel.from_pretrained(plain, folder, adapter_name=folder.parent.name)
        else:
            model.load_adapter(folder, folder.parent.name)
    return session, model


def check_same_logits(session: Any, model: Any, names: list[str]) -> None:
    """Raise BenchmarkError unless each adapter gives the same logits on both sides."""
    import torch

    ids = session.base.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    for name in names:
        session.use(name)
        model.set_adapter(name)
        with torch.no_grad():
            worst = float((session.base.model(ids).logits - model(ids).logits).abs().max())
        if not worst <= TOLERANCE:
            raise BenchmarkError(f"the gate is shut: {name}'s logits are up to {worst:.1e} apart")


def compare(store_folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds of each read from disk and each switch, in turns."""
    import torch

    from pefttune import store

    torch.set_num_threads(threads)
    names = sorted(folder.name for folder in store_folder.iterdir() if folder.is_dir())
    if len(names) < 2:
        raise BenchmarkError(f"{store_folder} must hold two adapters or more of one base, to switch between them")
    folders = {name: store.find(store_folder, name) for name in names}
    session, model = both_sides(list(folders.values()))
    check_same_logits(session, model, names)
    reads: list[tuple[float, float]] = []
    switches: list[tuple[float, float]] = []
    for turn in range(rounds):
        for i, name in enumerate(names):
            session.use(names[i - 1])
            model.set_adapter(names[i - 1])
            session.remove(name)
            model.delete_adapter(name)
            folder = folders[name]
            reads.append(_pair(turn, partial(session.load, folder, name), partial(model.load_adapter, folder, name)))
            switches.append(_pair(turn, partial(session.use, name), partial(model.set_adapter, name)))
    return {
        "workload": "swapping",
        "commit": report.commit(),
        "machine": machine.describe(threads),
        "adapters": names,
        "read": _told(reads),
        "switch": _told(switches),
    }


def _pair(turn: int, ours: Callable[[], Any], peer: Callable[[], Any]) -> tuple[float, float]:
    """Both, in turns which one goes first."""
    if turn % 2:
        theirs = seconds(peer)
        return seconds(ours), theirs
    return seconds(ours), seconds(peer)


def _told(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ours, peer = ([pair[side] for pair in pairs] for side in (0, 1))
    return {"ours": median(ours), "peer": median(peer), "slowest": max(ours), "ratio": asdict(ratio(ours, peer))}


def main(
    store_folder: Annotated[Path, typer.Option("--store", help="The adapters, all of one base.")] = Path("adapters"),
    json_file: JsonFile = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each adapter is read and switched to.")] = 10,
    threads: Threads = 2,
) -> None:
    """Read adapters from disk and switch between them, after the gate, beside PEFT in turns."""
    with told_plainly():
        found = compare(store_folder, rounds, threads)
    report.write(found, json_file)
    rows = [
        [what, *(f"{1000 * found[what][key]:,.4f}" for key in ("ours", "peer", "slowest"))]
        + [f"{found[what]['ratio'][key]:,.1f}" for key in ("median", "lowest", "highest")]
        for what in ("read", "switch")
    ]
    columns = ["", "ours ms", "PEFT ms", "ours, slowest", "ratio", "lowest", "highest"]
    report.grid(f"{len(found['adapters'])} adapters on one base, medians", columns, rows)


if __name__ == "__main__":
    typer.run(main)
