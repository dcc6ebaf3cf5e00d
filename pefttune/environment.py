"""What the libraries under torch read from the environment when they are loaded or first used, set to what training
needs. docs/LOG.md has the figures."""

from __future__ import annotations

import os

SETTINGS = {
    # How long the threads of a matrix product spin, while they wait for one another, before they sleep. By GNU OpenMP's
    # own default that is so long that training on all cores is several times slower beside another busy process.
    "GOMP_SPINCOUNT": "20000",
    # Kernels that are kept, for each shape of a product, by oneDNN and by torch's layer above it. Ragged batches bring
    # new shapes all the time, and of 1,024 each, their default, the kernels come to hold most of a gigabyte.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}
# Other names by which a user may have said the same.
ALSO = {"GOMP_SPINCOUNT": "OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "DNNL_PRIMITIVE_CACHE_CAPACITY"}


def prepare() -> None:
    """Set what the user has not set. OpenMP reads its setting when torch is loaded, and not again."""
    for name, value in SETTINGS.items():
        if ALSO.get(name, name) not in os.environ:
            os.environ.setdefault(name, value)
