"""The events that several steps of the line have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pefttune.training import Notify

ROWS_NAMED = 5


def tell(notify: Notify, message: str) -> None:
    """Tell something worth knowing that stops nothing."""
    notify({"event": "notice", "message": message})


def counter(notify: Notify, event: str, what: str, of: int) -> Callable[[int], None]:
    """Tells, each time it is called, how many of so many rows are done."""
    return lambda done: notify({"event": event, "what": what, "done": done, "of": of})


def first_of(origins: Sequence[str]) -> str:
    """Where the first few of these rows stand, to name them in a message."""
    return ", ".join(origins[:ROWS_NAMED]) + (" …" if len(origins) > ROWS_NAMED else "")
