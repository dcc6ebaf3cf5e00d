"""Probe rows: a few rows with the scores they had, by which an adapter proves that it is the one that was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pefttune.data import Row
from pefttune.errors import VerificationError
from pefttune.inference import Session

PROBE_ROWS = 16


def take_probe(session: Session, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The first rows of `rows` and the adapter's scores of them, JSON-able and exact."""
    values = [dict(row.values) for row in rows[:PROBE_ROWS]]
    return {"rows": values, "scores": _replay(session, name, values)}


def largest_difference(session: Session, name: str, probe: dict[str, Any]) -> float:
    """How far the adapter's scores of the probe rows are from the stored ones. 0.0 on the machine that trained it."""
    replayed = _replay(session, name, probe["rows"])
    pairs = zip(_flat(replayed), _flat(probe["scores"]), strict=True)
    return max(float(np.abs(np.asarray(ours) - np.asarray(stored)).max()) for ours, stored in pairs)


def verify(session: Session, name: str, probe: dict[str, Any]) -> None:
    """Raise VerificationError unless every probe row is scored exactly as stored (same machine, same dtype)."""
    if difference := largest_difference(session, name, probe):
        raise VerificationError(
            f"read back into a fresh base, {name} scores its probe rows up to {difference:.3g} away from what the "
            "trained one scored; it has not been stored. Please report this with the run folder's log"
        )


def _replay(session: Session, name: str, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """For each row, what its examples score."""
    encoder = session[name].encoder
    encoded = [encoder(Row(values, f"probe row {i}")) for i, values in enumerate(rows, start=1)]
    # One by one: what lies beside a row in its batch may change its last bits, and batches depend on settings.
    return [[session.scores(name, [example])[0].tolist() for example in each] for each in encoded]


def _flat(scores: Sequence[Sequence[Any]]) -> list[Any]:
    return [example for row in scores for example in row]
