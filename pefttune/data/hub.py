"""Rows of a data set on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pefttune.data.example import Row
from pefttune.errors import DataError


def hub_splits(
    identifier: str, config_name: str | None = None, revision: str | None = None
) -> dict[str, Iterator[Row]]:
    """The data set's splits by name; `origin` is `<id>[train]:<i>`, with the index that `datasets` knows, from 0.

    A class label comes as its name, also in a list. Raises DataError when it cannot be loaded. Code of the data set is
    never run: `datasets` can no longer do that from 4.0 on, the oldest that this project accepts.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(identifier, config_name, revision=revision)
    except Exception as error:  # any kind: builders, HTTP, file systems and parsers all have their own
        raise DataError(
            f"The data set {_asked(identifier, config_name, revision)} could not be loaded from the Hub: "
            f"{str(error).strip().rstrip('.') or type(error).__name__}. Check the name and the network; "
            "or give a file on this machine, with its ending, as `data.source` or `data.train`."
        ) from error
    return {name: _rows(split, f"{identifier}[{name}]") for name, split in loaded.items()}


def _asked(identifier: str, config_name: str | None, revision: str | None) -> str:
    return (
        f"`{identifier}`"
        + (f", configuration `{config_name}`" if config_name else "")
        + (f", revision `{revision}`" if revision else "")
    )


def _rows(split: Any, name: str) -> Iterator[Row]:
    import datasets

    def holds_labels(kind: Any) -> bool:
        inner = getattr(kind, "feature", None)
        return isinstance(kind, datasets.ClassLabel) or (inner is not None and holds_labels(inner))

    labels = {column: kind for column, kind in split.features.items() if holds_labels(kind)}
    for index, values in enumerate(split):
        names = {column: _label(kind, values[column]) for column, kind in labels.items()}
        yield Row({**values, **names}, f"{name}:{index}")


def _label(kind: Any, value: Any) -> Any:
    """The label's name, or the names of a list; None for a row without one, which the Hub writes as null or as -1."""
    if isinstance(value, list):
        return [_label(kind.feature, each) for each in value]
    return None if value is None or value < 0 else str(kind.int2str(value))
