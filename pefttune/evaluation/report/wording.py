"""Numbers and names as the report says them."""

from __future__ import annotations

import re

UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SPACE = "\u00a0"


def percent(fraction: float) -> str:
    """`87.3 %`, never broken between lines."""
    return f"{100 * fraction:.1f}{_SPACE}%"


def level(fraction: float) -> str:
    """`95 %`: how sure an interval is."""
    return f"{100 * fraction:g}{_SPACE}%"


def points(fraction: float) -> str:
    """`+28.1`: percentage points with their sign."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def bounds(low: float, high: float) -> str:
    """`87.1 to 89.0 %`"""
    return f"{100 * low:.1f} to {percent(high)}"


def amount(number: float) -> str:
    """`12,345`, or three digits of what is smaller than ten."""
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 10 else f"{number:.3g}"


def size(n_bytes: float) -> str:
    """`1.2 MiB`"""
    return f"{n_bytes / 2**10:,.0f}{_SPACE}KiB" if n_bytes < 2**20 else f"{n_bytes / 2**20:,.1f}{_SPACE}MiB"


def duration(seconds: float) -> str:
    """`48 s`, `12 min 5 s`, `3 h 20 min`"""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}{_SPACE}s" if seconds < 10 else f"{whole}{_SPACE}s"
    large, small, names = (
        (whole // 60, whole % 60, "min s") if whole < 3600 else (whole // 3600, whole % 3600 // 60, "h min")
    )
    first, second = names.split()
    return f"{large}{_SPACE}{first} {small}{_SPACE}{second}"


def showable(value: object) -> object:
    """Text without the characters that no page may hold; anything else as it is."""
    return UNSHOWABLE.sub("\ufffd", value) if type(value) is str else value
