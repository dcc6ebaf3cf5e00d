"""Division of rows by their content, so that a row never wanders when the file grows or is sorted anew."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
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


def divide_whole(
    rows: Sequence[Keyed], together: Sequence[str], *, validation: float, test: float
) -> dict[str, list[Keyed]]:
    """As `divide`, but rows with the same values in the columns `together` stay in one part.

    Groups of rows go by their place, each into the test where that brings its size nearer to the wanted fraction, then
    into validation; a part that is wanted gets one at least. Rows at the edge may wander when the file grows.
    """
    groups: dict[bytes, list[int]] = {}
    for index, item in enumerate(rows):
        groups.setdefault(content_key({column: item.row.values[column] for column in together}), []).append(index)
    by_place = [groups[key] for key in sorted(groups)]
    for_test, others = _nearest(by_place, test * len(rows))
    for_validation, for_train = _nearest(others, validation * len(rows))
    chosen = {"train": for_train, "validation": for_validation, "test": for_test}
    return {part: [rows[index] for index in sorted(chain.from_iterable(own))] for part, own in chosen.items()}


def _nearest(groups: Sequence[list[int]], wanted: float) -> tuple[list[list[int]], list[list[int]]]:
    """Groups, the first before the others, of as nearly `wanted` rows as they come to; and those that are left."""
    chosen: list[list[int]] = []
    left: list[list[int]] = []
    size = 0
    for group in groups:
        nearer = len(group) < 2 * (wanted - size)
        (chosen if nearer else left).append(group)
        size += len(group) if nearer else 0
    if wanted and left and not chosen:
        chosen.append(left.pop(min(range(len(left)), key=lambda i: len(left[i]))))
    return chosen, left


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
