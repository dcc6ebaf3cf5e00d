"""The files of a published adapter, and how large each may be. Nothing else is sent, and nothing else is fetched."""

from __future__ import annotations

from collections.abc import Iterable

from pefttune.methods.weights import CONFIG, WEIGHTS
from pefttune.store import MANIFEST
from pefttune.store.manifest import HUBS_OWN, SIGNATURE

CARD = "README.md"
FIGURE = "figure.png"
BOM = "bom.json"
MOST_BYTES = {CARD: 1 << 20, CONFIG: 1 << 20, WEIGHTS: 16 << 30, FIGURE: 16 << 20, MANIFEST: 16 << 20}
"""The weights' bound is that of rank 256 on all layers of a base of 70 billion parameters, in float32."""
MOST_BYTES_BESIDE = {SIGNATURE: 1 << 20, BOM: 4 << 20}
"""What may be there, too: the bill of materials is among the files that the manifest names, the signature is not."""
RESULTS = ".eval_results/"
"""The Hub's folder of results for leaderboards; others may put theirs there, too. No part of an adapter."""


def strangers(files: Iterable[str]) -> list[str]:
    """Of the files that a manifest names those that no adapter has, and those that it lacks."""
    return sorted(set(files) - {BOM} ^ MOST_BYTES.keys() - {MANIFEST})


def is_ours(name: str) -> bool:
    """Whether a file of a repository is part of an adapter, or one that the Hub keeps beside it."""
    return name in {*MOST_BYTES, *MOST_BYTES_BESIDE, *HUBS_OWN} or name.startswith(RESULTS)
