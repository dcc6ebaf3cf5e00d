"""Texts that are nearly the same: MinHash finds those that may be (Broder 1997), their n-grams decide.

Shapes: N texts, H hashes of each.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

NGRAM = 5  # characters
HASHES, BAND = 32, 4
"""Two texts are compared if all hashes of one band are equal: of those with 0.9 of their n-grams in common, all but
(1 - 0.9**4)**8 = 0.0002."""
WITNESSES = 10  # texts of a bucket that each other one is compared with: boilerplate would make buckets of thousands
TEXTS_AT_ONCE = 2048
LEAST_AGREEMENT = 0.7  # of the hashes: at a true 0.9 they agree in 0.9 ± 0.05

Signatures = NDArray[np.uint64]


def normalized(text: str) -> str:
    """The text without case, punctuation and symbols, its words one space apart."""
    return " ".join(text.casefold().translate(_blanks()).split())


@cache
def _blanks() -> dict[int, str]:
    every = (chr(code) for code in range(0x20000))  # there is no punctuation beyond
    return {ord(each): " " for each in every if unicodedata.category(each)[0] in "PSZ"}


def jaccard(one: str, other: str) -> float:
    """The part of both texts' n-grams that they have in common."""
    ours, theirs = _ngrams(one), _ngrams(other)
    return len(ours & theirs) / len(ours | theirs)


def _ngrams(text: str) -> set[str]:
    return {text[i : i + NGRAM] for i in range(max(1, len(text) - NGRAM + 1))}


def candidates(texts: Sequence[str], parts_N: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of texts of different parts that may be nearly the same, the one of the earlier part first.

    Each text has at least `NGRAM` characters; they stand in the order of their parts. At most WITNESSES for each text
    and band.
    """
    if not texts:
        return []
    signatures_NH = _signatures(texts)
    pairs = np.array(sorted({pair for keys in _bands(signatures_NH) for pair in _in_buckets(keys, parts_N)}))
    if not len(pairs):
        return []
    agreement = (signatures_NH[pairs[:, 0]] == signatures_NH[pairs[:, 1]]).mean(axis=1)
    return [(int(one), int(other)) for one, other in pairs[agreement >= LEAST_AGREEMENT]]


def _signatures(texts: Sequence[str]) -> Signatures:
    """For each hash function the smallest hash of any n-gram of the text: (N, H)."""
    numbers = np.random.default_rng(0).integers(0, 2**64, (2, HASHES), np.uint64)
    factors_H, summands_H = numbers[0] | np.uint64(1), numbers[1]
    signatures_NH = np.empty((len(texts), HASHES), np.uint64)
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        chunk = texts[first : first + TEXTS_AT_ONCE]
        starts = np.cumsum([0, *map(len, chunk[:-1])])
        hashes = _ngram_hashes("".join(chunk))
        across = (starts[1:, None] - np.arange(1, NGRAM)).ravel()  # n-grams that begin in one text and end in the next
        for index in range(HASHES):
            mixed = hashes * factors_H[index] + summands_H[index]
            mixed[across] = np.iinfo(np.uint64).max
            signatures_NH[first : first + len(chunk), index] = np.minimum.reduceat(mixed, starts)
    return signatures_NH


def _ngram_hashes(text: str) -> Signatures:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    count = len(codes) - NGRAM + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(NGRAM):
        hashes = _combined(hashes, codes[offset : offset + count])
    return hashes


def _combined(hashes: Signatures, more: Signatures) -> Signatures:
    """Hashes that also depend on `more`, mixed by the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    mixed = hashes * np.uint64(0x9E3779B97F4A7C15) + more
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    combined: Signatures = mixed ^ (mixed >> np.uint64(31))
    return combined


def _bands(signatures_NH: Signatures) -> Iterator[Signatures]:
    """For each band one key of each text: equal where all of the band's hashes are."""
    for first in range(0, HASHES, BAND):
        keys_N = np.zeros(len(signatures_NH), np.uint64)
        for index in range(first, first + BAND):
            keys_N = _combined(keys_N, signatures_NH[:, index])
        yield keys_N


def _in_buckets(keys_N: Signatures, parts_N: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    order = np.argsort(keys_N, kind="stable")  # so that inside a bucket texts stand in the order of their parts
    ends = np.append(np.flatnonzero(np.diff(keys_N[order])) + 1, len(order))
    starts = np.append(0, ends[:-1])
    mixed = parts_N[order[starts]] != parts_N[order[ends - 1]]
    for start, end in zip(starts[mixed], ends[mixed], strict=True):
        bucket = order[start:end]
        for index in bucket[parts_N[bucket] > parts_N[bucket[0]]]:
            for one in bucket[:WITNESSES]:
                if parts_N[one] < parts_N[index]:
                    yield int(one), int(index)
