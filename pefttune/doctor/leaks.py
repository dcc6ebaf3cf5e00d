"""Held-out rows that are nearly training rows, so that figures on them say less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pefttune.data import Row
from pefttune.doctor.case import PARTS, Case, Counts, share, text_of
from pefttune.doctor.finding import Finding, found
from pefttune.doctor.near import candidates, jaccard, normalized

NEAR = 0.9  # of the n-grams in common
LEAST_CHARACTERS = 40  # in shorter texts one word is another meaning: only case, punctuation and spaces may differ


class _Text(NamedTuple):
    part: int
    row: Row
    columns: tuple[str, ...]
    """Normalized."""


class Leak(NamedTuple):
    """A held-out row and the row of an earlier part that it nearly is; `same` but for case, punctuation and spaces."""

    row: Row
    earlier: Row
    same: bool


def check_leaks(case: Case) -> Iterator[Finding]:
    """Validation and test rows that are nearly rows of an earlier part, named by pairs."""
    names = [part for part in PARTS if part in case.rows]
    for part, leaks in find_leaks(case.rows, case.task.inputs).items():
        if not leaks:
            continue
        earlier = " or ".join(PARTS[name] for name in names[: names.index(part)])
        told = f"{share(len(leaks), len(case.rows[part]))} {PARTS[part]} rows are nearly {earlier} rows"
        same = sum(leak.same for leak in leaks)
        told += f", {same:,} of them the same but for case, punctuation and spaces" if same else ""
        if isinstance(case.task, Counts):
            differ = sum(case.task.reference(leak.row) != case.task.reference(leak.earlier) for leak in leaks)
            told += f", {differ:,} of them with another answer" if differ else ""
        where = [f"{leak.row.origin} ~ {leak.earlier.origin}" for leak in leaks]
        mend = "Take them out of one of the two, or figures on them flatter the adapter."
        yield found("near-duplicates", "warning", told, mend, where)


def find_leaks(rows: Mapping[str, Sequence[Row]], inputs: Sequence[str]) -> dict[str, list[Leak]]:
    """For each held-out part its rows that are nearly a row of a part before it, in their order."""
    names = [part for part in PARTS if part in rows]
    texts = [
        _Text(number, row, columns)
        for number, part in enumerate(names)
        for row in rows[part]
        if any(columns := tuple(normalized(text_of(row.values[column])) for column in inputs))
    ]
    leaks = _the_same(texts)
    leaks |= _nearly([(i, text) for i, text in enumerate(texts) if i not in leaks])
    return {part: [leaks[i] for i in sorted(leaks) if texts[i].part == names.index(part)] for part in names[1:]}


def _the_same(texts: Sequence[_Text]) -> dict[int, Leak]:
    """Index of the later text → leak."""
    first: dict[tuple[str, ...], _Text] = {}
    leaks = {}
    for index, text in enumerate(texts):
        earlier = first.setdefault(text.columns, text)
        if earlier.part < text.part:
            leaks[index] = Leak(text.row, earlier.row, same=True)
    return leaks


def _nearly(numbered: Sequence[tuple[int, _Text]]) -> dict[int, Leak]:
    long = [(index, text) for index, text in numbered if sum(map(len, text.columns)) >= LEAST_CHARACTERS]
    joined = [" ".join(text.columns) for _, text in long]
    leaks = {}
    for one, other in candidates(joined, np.array([text.part for _, text in long], np.int64)):
        index, text = long[other]
        earlier = long[one][1]
        # Of each column: many questions about one long passage are not the same.
        if index not in leaks and all(
            jaccard(*pair) >= NEAR for pair in zip(earlier.columns, text.columns, strict=True)
        ):
            leaks[index] = Leak(text.row, earlier.row, same=False)
    return leaks
