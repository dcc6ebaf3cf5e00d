"""What a row is by its content: the same on every machine and in every order of reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pefttune.data.example import Row
from pefttune.errors import DataError


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """The values as JSON of one form only: keys sorted, no spaces, ASCII. Raises DataError if they have none."""
    return json.dumps(dict(values), sort_keys=True, separators=(",", ":"), default=plain).encode("ascii")


def content_key(values: Mapping[str, Any]) -> bytes:
    """The sha256 of the values' canonical JSON."""
    return hashlib.sha256(canonical_json(values)).digest()


def fingerprint(rows: Iterable[Row]) -> str:
    """The sha256, in hex, of the rows' canonical JSON in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(canonical_json(row.values) + b"\n")
    return total.hexdigest()


def plain(value: Any) -> str:
    """A value that JSON has no form for, as text; what `json.dumps` takes as `default`. Raises DataError."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date | time | timedelta | Decimal | UUID):
        return str(value)
    raise DataError(f"A column holds values of type {type(value).__name__}, which JSON cannot hold")
