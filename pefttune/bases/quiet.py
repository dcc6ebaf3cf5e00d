"""Third parties that speak where nobody asked them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws a bar for each load, which would run through those of a run."""
    from transformers.utils import logging as theirs

    drawn = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            theirs.enable_progress_bar()
