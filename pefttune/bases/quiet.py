"""Third parties that speak, or fetch, where nobody asked them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


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


def import_bitsandbytes() -> ModuleType:
    """bitsandbytes, without what it does at import: on some CPUs it fetches native code from the Hub and runs it, where
    the package `kernels` is installed (0.50.2, `backends/cpu/ops.py`). Its warnings are of what users cannot mend."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    before = {"kernels": sys.modules["kernels"]} if "kernels" in sys.modules else {}
    sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    try:
        import bitsandbytes
    finally:
        del sys.modules["kernels"]
        sys.modules.update(before)
    library: ModuleType = bitsandbytes
    return library
