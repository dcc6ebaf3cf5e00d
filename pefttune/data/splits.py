"""Division of rows by their content, so that a row never wanders when the file grows or is sorted anew."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pefttune.data.content import content_key
from pefttune.data.example import Row


class Keyed(NamedTuple):
    """A row with the sha256 of its input columns."""

    key: bytes
    row: Row


def keyed(rows: Iterable[Row], inputs: Sequence[str]) -> list[Keyed]:
    """Each row with its key; the label has no part in it."""
    return [Keyed(content_key({column: row.values[column] for column in inputs}), row) for row in rows]


def assign(values: Mapping[str, Any]) -> float:
    """The place in [0, 1) of a row with these input columns."""
    return _place(content_key(values))


def _place(key: bytes) -> float:
    return (int.from_bytes(key[:8], "big") >> 11) / (1 << 53)  # 53 bits: what a float holds, so never rounded up to 1


def divide(rows: Iterable[Keyed], *, validation: float, test: float) -> dict[str, list[Keyed]]:
    """Rows by place: the first fraction is for the test, the next for validation, the rest to train on."""
    parts: dict[str, list[Keyed]] = {"train": [], "validation": [], "test": []}
    for item in rows:
        place = _place(item.key)
        parts["test" if place < test else "validation" if place < test + validation else "train"].append(item)
    return parts


def without(rows: Iterable[Keyed], others: Iterable[Keyed]) -> list[Keyed]:
    """The rows whose inputs are in none of the others."""
    keys = {item.key for item in others}
    return [item for item in rows if item.key not in keys]


def limit(rows: Sequence[Keyed], most: int | None) -> list[Keyed]:
    """At most so many rows, chosen by content and left in their order."""
    if most is None or len(rows) <= most:
        return list(rows)
    # Another hash than that of the place: in one part the places are all from one interval.
    ranks = ((hashlib.sha256(b"limit" + item.key).digest(), index) for index, item in enumerate(rows))
    return [rows[index] for index in sorted(index for _, index in heapq.nsmallest(most, ranks))]


def duplicates_in(rows: Sequence[Keyed]) -> int:
    """How many rows have the inputs of an earlier one."""
    return len(rows) - len({item.key for item in rows})
