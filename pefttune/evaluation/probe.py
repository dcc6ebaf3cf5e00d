"""Probe rows: a few rows with the scores they had, by which an adapter proves that it is the one that was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pefttune.data import Row
from pefttune.errors import VerificationError
from pefttune.inference import Session

PROBE_ROWS = 16
ROUNDING = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.5}
"""How far scores (logits, log-likelihoods) may be moved by another device that rounds the same sums otherwise. The four
shipped adapters, trained in bfloat16, score their probe rows up to 0.25 away in float32, and those of another adapter
1.5 and more (docs/LOG.md)."""


@dataclass(frozen=True)
class Verdict:
    """What a replay of an adapter's probe rows says: how many there are, the largest difference of a score, and the
    dtype they were scored in."""

    rows: int
    largest: float
    dtype: str

    @property
    def word(self) -> str:
        """`equal` to the bit, within `rounding` of another device, or `different`."""
        if not self.largest:
            return "equal"
        return "rounding" if self.largest <= ROUNDING[self.dtype] else "different"


def take_probe(session: Session, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The first rows of `rows` and the adapter's scores of them, JSON-able and exact."""
    values = [dict(row.values) for row in rows[:PROBE_ROWS]]
    return {"rows": values, "scores": _replay(session, name, values)}


def largest_difference(session: Session, name: str, probe: Mapping[str, Any]) -> float:
    """How far the adapter's scores of the probe rows are from the stored ones. 0.0 on the machine that trained it,
    infinite where a row has another number of scores."""
    replayed, stored = _flat(_replay(session, name, probe["rows"])), _flat(probe["scores"])
    if len(replayed) != len(stored):
        return math.inf
    return max(map(_difference, replayed, stored), default=0.0)


def _difference(replayed: Any, stored: Any) -> float:
    try:
        one, other = np.asarray(replayed, dtype=float), np.asarray(stored, dtype=float)
    except (TypeError, ValueError, OverflowError):  # what is stored is no table of numbers
        return math.inf
    if one.shape != other.shape:
        return math.inf
    largest = float(np.abs(one - other).max(initial=0.0))
    return math.inf if math.isnan(largest) else largest


def replay(session: Session, name: str, manifest: Mapping[str, Any]) -> Verdict:
    """Score the probe rows of a stored adapter again."""
    probe = manifest["probe"]
    return Verdict(len(probe["rows"]), largest_difference(session, name, probe), manifest["base"]["dtype"])


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
    try:
        encoded = [encoder(Row(values, f"probe row {i}")) for i, values in enumerate(rows, start=1)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # rows of a manifest that somebody has edited
        raise VerificationError(f"the probe rows of {name} are none that its task can read: {error!r}") from None
    # One by one: what lies beside a row in its batch may change its last bits, and batches depend on settings.
    return [[session.scores(name, [example])[0].tolist() for example in each] for each in encoded]


def _flat(scores: Sequence[Sequence[Any]]) -> list[Any]:
    return [example for row in scores for example in row]
