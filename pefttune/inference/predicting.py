"""From rows to predictions: rows are streamed through a session in chunks, each answered by the adapter it names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice, repeat
from typing import TYPE_CHECKING

from pefttune import tasks
from pefttune.batching import Boundary, Outputs
from pefttune.data import Row
from pefttune.errors import AdapterError, DataError
from pefttune.inference.rows import AnyRow, as_row

if TYPE_CHECKING:
    from pefttune.inference.session import Session

ROWS_AT_ONCE = 512
SEVERAL = "predict() and parallel() take several rows: give a list, [row], also for one"
OF_COLUMNS = (
    "predict() and parallel() take rows, and a {kind} gives its columns instead: give a list of its rows, which is "
    '`.to_dict("records")` in pandas, `.to_dicts()` in Polars and `.to_pylist()` in PyArrow'
)


def predict(session: Session, rows: Iterable[AnyRow], adapter: str | Sequence[str]) -> Iterator[tasks.Prediction]:
    """A prediction for each row, in order, by `adapter`, one for all or one for each. Raises DataError and
    AdapterError for what is wrong at once."""
    _check_several(rows)
    whose = [adapter] if isinstance(adapter, str) else list(adapter)
    for name in dict.fromkeys(whose):
        session.purpose(name)
    names = repeat(adapter) if isinstance(adapter, str) else iter(whose)
    return _in_chunks(session, enumerate(rows, start=1), names)


def parallel(
    session: Session, rows: Iterable[AnyRow], adapters: Sequence[str]
) -> Iterator[dict[str, tasks.Prediction]]:
    """For each row, in order, the prediction of every one of the adapters, by name. Raises as `predict` does."""
    _check_several(rows)
    if isinstance(adapters, str) or not adapters:
        raise AdapterError("parallel() takes several adapters: give a list of names")
    for name in adapters:
        session.purpose(name)
    each = ((number, row) for number, row in enumerate(rows, start=1) for _ in adapters)
    predicted = _in_chunks(session, each, cycle(adapters))
    return (dict(zip(adapters, own, strict=True)) for own in zip(*[predicted] * len(adapters), strict=True))


def _check_several(rows: object) -> None:
    """A text is no list of its letters, nor a row one of its columns' names, nor a table one of its columns. Raises
    DataError."""
    columns = getattr(rows, "columns", None)  # as the tables of pandas, Polars and PyArrow have, and no list of rows
    if columns is not None and not callable(columns):
        raise DataError(OF_COLUMNS.format(kind=type(rows).__name__))
    if isinstance(rows, str | bytes | Row | Mapping) or not isinstance(rows, Iterable):
        raise DataError(SEVERAL)


def _in_chunks(
    session: Session, numbered: Iterator[tuple[int, AnyRow]], names: Iterator[str]
) -> Iterator[tasks.Prediction]:
    while chunk := list(islice(numbered, ROWS_AT_ONCE)):
        whose = list(islice(names, len(chunk)))
        if len(whose) < len(chunk):
            raise DataError(f"text {chunk[len(whose)][0]}: there are more rows than adapters named for them")
        own = [session.purpose(name) for name in whose]
        checked = [as_row(row, one.task, number) for (number, row), one in zip(chunk, own, strict=True)]
        encoded = [one.encoder(row) for one, row in zip(own, checked, strict=True)]
        yield from _of_several(session, whose, checked, encoded)


def _of_several(
    session: Session, whose: Sequence[str], rows: Sequence[Row], encoded: Sequence[tasks.Encoded]
) -> list[tasks.Prediction]:
    """Predictions of rows that each name their adapter: scores of all in shared passes, answers written by one adapter
    after the other."""
    result: dict[int, tasks.Prediction] = {}
    writers = {name for name in whose if session.purpose(name).task.generation is not None}
    for name in sorted(writers):
        indices = [i for i, other in enumerate(whose) if other == name]
        written = session.predictions(name, [rows[i] for i in indices], [encoded[i] for i in indices])
        result |= zip(indices, written, strict=True)
    scored = [i for i, name in enumerate(whose) if name not in writers]
    scores = iter(session.mixed_scores([(whose[i], example) for i in scored for example in encoded[i]]))
    for i in scored:
        result[i] = session.purpose(whose[i]).task.decode(rows[i], encoded[i], list(islice(scores, len(encoded[i]))))
    return [result[i] for i in range(len(rows))]


def predictions(
    session: Session,
    name: str,
    rows: Sequence[Row],
    encoded: Sequence[tasks.Encoded],
    progress: Callable[[int], None],
    boundary: Boundary | Outputs | None,
) -> list[tasks.Prediction]:
    """Predictions of checked rows by the adapter `name`; `encoded` is what its encoder made of them."""
    task = session.purpose(name).task
    if task.generation is not None:
        writings = session.generate(name, [each[-1] for each in encoded], progress=progress)
        rows_and_more = zip(rows, encoded, writings, strict=True)
        return [task.decode(row, each, [writing]) for row, each, writing in rows_and_more]
    scores = iter(session.scores(name, [example for each in encoded for example in each], progress, boundary))
    return [task.decode(row, each, list(islice(scores, len(each)))) for row, each in zip(rows, encoded, strict=True)]
