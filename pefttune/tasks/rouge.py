"""ROUGE (Lin 2004) by the rouge-score library, with Porter's stemmer, as published results have it.

It reads the letters a to z and digits only, so it says nothing of texts in other scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

KINDS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our names, as the Hub's, and the library's."""
SHOWN = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2"}
PAIRS_KEPT = 10_000


@lru_cache(PAIRS_KEPT)  # metrics and tallies want the same
def rouge(text: str, references: tuple[str, ...]) -> dict[str, float]:
    """F1 of each kind against the reference that fits best by it (as SciTLDR's scorer, arXiv:2004.15011)."""
    scores = _scorer().score_multi(references, text)
    return {ours: float(scores[theirs].fmeasure) for ours, theirs in KINDS.items()}


def mean_rouge(texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> dict[str, float]:
    """The mean of each kind over rows."""
    rows = [rouge(text, right) for text, right in zip(texts, references, strict=True)]
    return {kind: sum(row[kind] for row in rows) / len(rows) for kind in KINDS}


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS.values()), use_stemmer=True)
