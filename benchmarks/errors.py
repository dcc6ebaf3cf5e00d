"""What a person who starts a benchmark may be told."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark cannot be run, or what it measured may not be compared. The message says why and how to mend it."""
