"""What bitsandbytes does at import, kept from it: on some CPUs it fetches native code from the Hub and runs it, where
the package `kernels` is installed (0.50.2, `backends/cpu/ops.py`)."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

GUARDED = "bitsandbytes"


class _Finder(MetaPathFinder):
    """Finds bitsandbytes once, whoever imports it first: transformers, peft and accelerate do as well as pefttune."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where bitsandbytes is, to be run without `kernels`."""
        if fullname != GUARDED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _without_kernels():
                run(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Nobody can import `kernels`; and bitsandbytes keeps to itself what users cannot mend."""
    logging.getLogger(GUARDED).setLevel(logging.ERROR)
    before = {"kernels": sys.modules["kernels"]} if "kernels" in sys.modules else {}
    sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    try:
        yield
    finally:
        del sys.modules["kernels"]
        sys.modules.update(before)


def guard() -> None:
    """Have bitsandbytes imported without `kernels`, if it is not imported yet."""
    if GUARDED not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
