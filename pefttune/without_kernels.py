"""What bitsandbytes does at import, kept from it: on some CPUs it fetches native code from the Hub and runs it, where
the package `kernels` is installed (0.50.2, `backends/cpu/ops.py`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

GUARDED = "bitsandbytes"


class _Finder(MetaPathFinder):
    """Finds bitsandbytes for whoever imports it first: transformers, peft and accelerate do as well as pefttune. It
    stays, for some only ask whether bitsandbytes is there before another one imports it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where bitsandbytes is, to be run without `kernels`."""
        if fullname != GUARDED:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _without_kernels():
                run(module)

        # On this one loader, which is made anew for each spec: a loader of our own would have to be all that it is.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # mypy allows no method to be replaced
        return spec


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Nobody can import `kernels`; and bitsandbytes keeps to itself what users cannot mend."""
    logging.getLogger(GUARDED).setLevel(logging.ERROR)
    before = {"kernels": sys.modules["kernels"]} if "kernels" in sys.modules else {}
    # Python's own way to make an import fail, which the types of sys.modules do not know.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["kernels"]
        sys.modules.update(before)


def guard() -> None:
    """Have bitsandbytes imported without `kernels`, if it is not imported yet."""
    if GUARDED not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
