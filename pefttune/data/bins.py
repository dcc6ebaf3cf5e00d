"""Names for intervals of a numeric label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pefttune.data.config import BinConfig
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened

LABEL = "label"


def bin_of(value: Any, bins: Mapping[str, BinConfig]) -> str | None:
    """The name of the bin that holds the value; None when no bin does. Raises RowFault when it is not a number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowFault(LABEL, f"`data.label_bins` needs a number, not {shortened(value)}")
    return next((name for name, interval in bins.items() if interval.holds(number)), None)
