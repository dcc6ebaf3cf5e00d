"""Classes: those that are missing, too rare to be learned, uneven, or hardly told apart by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pefttune.data import Row
from pefttune.doctor.case import PARTS, TRAIN, Case, Counts
from pefttune.doctor.finding import Finding, found
from pefttune.tasks import Task

FEW = 5  # training rows below which a class is hardly learned
UNEVEN = 5  # times as many rows of one class as of another, from where accuracy says little
NAMED = 8


def count_kinds(task: Task, rows: Iterable[Row]) -> Counter[str] | None:
    """How often each kind is in the rows; None for a task of free answers."""
    return Counter(kind for row in rows for kind in task.kinds(row)) if isinstance(task, Counts) else None


def kinds_of(task: Task, counts: Iterable[Counter[str]]) -> list[str]:
    """All kinds there should be: the task's labels; or those that are there, where a label is not one (`B-PER`)."""
    seen = {kind for each in counts for kind in each}
    return list(task.labels) if seen <= set(task.labels) else sorted(seen)


def check_classes(case: Case) -> Iterator[Finding]:
    """Classes without rows, with few, uneven ones, and those of nearly one name."""
    yield from classes_in(case.task, case.rows)


def classes_in(task: Task, by_part: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """As `check_classes`, of rows by part, which no base has read yet."""
    counts = {part: count for part, rows in by_part.items() if (count := count_kinds(task, rows)) is not None}
    train = counts.get(TRAIN)
    if not train:
        return
    kinds = kinds_of(task, counts.values())
    for part, count in counts.items():
        if missing := [kind for kind in kinds if not count[kind]]:
            mend = "It cannot be learned: give rows, or take it out of task.labels."
            if part != TRAIN:
                mend = "Nothing is known of how well it is predicted there: give more rows."
            yield found("missing-class", "warning", f"no {PARTS[part]} row is of the class {_listed(missing)}", mend)
    if few := [f"{kind} ({train[kind]})" for kind in kinds if 0 < train[kind] < FEW]:
        told = f"fewer than {FEW} training rows are of the class {_listed(few)}"
        yield found("rare-class", "warning", told, "Give more rows of it, or join it with another class.")
    for names in _alike(kinds):
        told = f"the classes {' and '.join(map(repr, names))} are the same but for case or spaces"
        yield found("alike-classes", "warning", told, "They are learned as different ones: write them in one way.")
    most, least = max(kinds, key=lambda kind: train[kind]), min(filter(train.get, kinds), key=lambda kind: train[kind])
    if train[most] >= UNEVEN * train[least]:
        told = f"{most!r} is {train[most] / train[least]:.1f} times as frequent in training rows as {least!r}"
        yield found("uneven-classes", "note", told, "Look at macro-F1 and at each class, not at accuracy alone.")


def _alike(kinds: Iterable[str]) -> list[list[str]]:
    """Kinds that are written in several ways."""
    ways: dict[str, list[str]] = {}
    for kind in kinds:
        ways.setdefault("".join(kind.casefold().split()), []).append(kind)
    return [names for names in ways.values() if len(names) > 1]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
