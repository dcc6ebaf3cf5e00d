"""Rows that are there twice in one part: the same input, with the same answer or another one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pefttune.data import Row
from pefttune.data.content import content_key
from pefttune.doctor.case import PARTS, Case, Counts, share
from pefttune.doctor.finding import Finding, Level, found

MANY = 0.01  # of a part: repeated rows then weigh in its figures


def check_repeats(case: Case) -> Iterator[Finding]:
    """Duplicates inside each part, and conflicts: the same input with different answers."""
    for part, rows in case.rows.items():
        groups = [group for group in _by_input(rows, case.task.inputs) if len(group) > 1]
        repeated = [f"{again.origin} = {group[0].origin}" for group in groups for again in group[1:]]
        if repeated:
            level: Level = "warning" if len(repeated) > MANY * len(rows) else "note"
            told = f"{share(len(repeated), len(rows))} {PARTS[part]} rows repeat the input of an earlier one"
            yield found("duplicates", level, told, "They count as often as they are there.", repeated)
        if isinstance(case.task, Counts):
            yield from _conflicts(case, part, groups)


def _by_input(rows: Sequence[Row], inputs: Sequence[str]) -> list[list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[content_key({column: row.values[column] for column in inputs})].append(row)
    return list(groups.values())


def _conflicts(case: Case, part: str, groups: Sequence[Sequence[Row]]) -> Iterator[Finding]:
    where = []
    for group in groups:
        first: dict[str, Row] = {}
        for row in group:
            first.setdefault(case.task.reference(row), row)
        if len(first) > 1:
            where.append(" ≠ ".join(f"{row.origin} {answer}" for answer, row in first.items()))
    if where:
        told = f"{len(where):,} inputs in {PARTS[part]} rows have different answers"
        yield found("conflicts", "warning", told, "One of them must be wrong: mend the rows or take them out.", where)
