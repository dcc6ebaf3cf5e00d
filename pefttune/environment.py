"""What the libraries under torch read from the environment at their first product, set to what training needs.
docs/LOG.md has the figures."""

from __future__ import annotations

import os

SETTINGS = {
    # Kernels that are kept, for each shape of a product, by oneDNN and by torch's layer above it. Ragged batches bring
    # new shapes all the time, and of 1,024 each, their default, the kernels come to hold most of a gigabyte.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}
# Other names by which a user may have said the same.
ALSO = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "DNNL_PRIMITIVE_CACHE_CAPACITY"}


def prepare() -> None:
    """Set what the user has not set. It is read once: a product that was computed before keeps the defaults."""
    for name, value in SETTINGS.items():
        if ALSO.get(name, name) not in os.environ:
            os.environ.setdefault(name, value)
