"""`pefttune list` and `pefttune show`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pefttune.cli.output import Json, Store, err, out, percent, print_json
from pefttune.errors import AdapterError

if TYPE_CHECKING:
    from pefttune.pipeline import Weights

LABELS_SHOWN = 6


def list_adapters(store: Store = "adapters", as_json: Json = False) -> None:
    """List the adapters in the store."""
    from pefttune import store as room

    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    for name in room.names(Path(store)):
        try:
            folder = room.find(Path(store), name)
            rows.append(_row(folder, room.read_manifest(folder, check_files=False)))
        except AdapterError as error:  # the others can be used all the same
            damaged.append(str(error))
    if as_json:
        print_json({"adapters": rows, "damaged": damaged})
        return
    for fault in damaged:
        err.print(fault, soft_wrap=True)
    if not rows:
        out.print(f"no adapters in {store}; `pefttune recipes` lists recipes to train one by")
        return
    table = Table()
    for heading in ("name", "version", "task", "labels", "base", "metric", "with adapter", "without", "KiB"):
        table.add_column(heading, overflow="fold")  # a narrow terminal, or a pipe, cuts nothing off
    for row in rows:
        table.add_row(
            row["name"],
            str(row["version"]),
            row["task"],
            " ".join(row["labels"][:LABELS_SHOWN]) + (" …" if len(row["labels"]) > LABELS_SHOWN else ""),
            row["base"],
            row["metric"],
            percent(row["with_adapter"]),
            percent(row["without"]),
            f"{row['bytes'] / 1024:,.0f}",
        )
    out.print(table)


def _row(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    comparison = manifest["comparison"]
    primary = comparison["primary"]
    return {
        "name": folder.parent.name,  # one that was pulled may have another name here than where it was trained
        "version": int(folder.name),
        "task": manifest["recipe"]["task"]["type"],
        "labels": manifest["labels"],
        "base": manifest["base"]["source"],
        "metric": comparison["shown"][primary],
        "with_adapter": comparison["adapter"][primary],
        "without": comparison["differences"][0]["there"],
        "bytes": sum(path.lstat().st_size for path in folder.iterdir()),  # a link may lead nowhere
    }


def show(
    name: Annotated[str, typer.Argument(help="An adapter: name, or name@version.")],
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Show what is known of an adapter, its files' digests checked, and what its weights are."""
    from rich.markdown import Markdown

    from pefttune import pipeline
    from pefttune import store as room

    folder = room.find(Path(store), name)
    manifest = room.read_manifest(folder)
    if as_json:
        stored = room.versions(Path(store), folder.parent.name)
        weights = asdict(pipeline.look(f"{folder.parent.name}@{folder.name}", Path(store)))
        print_json({"folder": str(folder), "stored_versions": stored, **manifest, "weights": weights})
        return
    card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    out.print(Markdown(card.split("---\n", 2)[-1]))  # without the metadata, if it has any
    out.print(f"folder: {folder}", soft_wrap=True)
    _print_weights(pipeline.look(f"{folder.parent.name}@{folder.name}", Path(store)))


def _print_weights(weights: Weights) -> None:
    from pefttune.pipeline import by_layer

    out.print(f"{weights.tensors:,} tensors, {weights.parameters:,} parameters in {' and '.join(weights.dtypes)}")
    if weights.refused is not None:
        out.print(weights.refused, soft_wrap=True)
        return
    table = Table(title="spectral norms of what it adds to weights")
    for heading in ("layer", "modules", "rank", "scale", "least", "greatest", "of"):
        table.add_column(heading, justify="left" if heading in ("layer", "of") else "right", overflow="fold")
    for layer, modules in by_layer(weights.modules).items():
        greatest = max(modules, key=lambda name: modules[name].spectral)
        table.add_row(
            layer,
            str(len(modules)),
            _span(module.r for module in modules.values()),
            _span(module.scale for module in modules.values()),
            f"{min(module.spectral for module in modules.values()):.4g}",
            f"{modules[greatest].spectral:.4g}",
            greatest.removeprefix(f"{layer}."),
        )
    out.print(table)


def _span(values: Iterable[float]) -> str:
    """`8`, or `4–16`."""
    found = sorted(set(values))
    return "–".join(f"{value:.4g}" for value in (found[0], found[-1])[: len(found)])
