"""Data sets known by name, which the package index alone provides."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pefttune.data.archives import extract_member
from pefttune.data.hints import did_you_mean, listed
from pefttune.data.package_index import Pin, cache_dir, fetch, sha256_of
from pefttune.data.storage import storage_errors
from pefttune.errors import DataError

_VADER = Pin(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", kind="sdist"
)
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set of the catalogue: a file without header inside a pinned archive. `sha256` is that of the file."""

    name: str
    title: str
    member: str
    sha256: str
    columns: tuple[str, ...] = ("id", "rating", "text")
    licence: str = "MIT"
    citation: str = (
        "C.J. Hutto and Eric Gilbert (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social "
        "Media Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14)."
    )
    homepage: str = "https://github.com/cjhutto/vaderSentiment"


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            "film-reviews",
            "Film review snippets with mean human sentiment ratings",
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        ),
        Entry(
            "product-reviews",
            "Product review snippets with mean human sentiment ratings",
            "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        ),
        Entry(
            "tweets",
            "Tweets with mean human sentiment ratings",
            "hutto_ICWSM_2014/tweets_GroundTruth.txt",
            "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
        ),
        Entry(
            "editorials",
            "Newspaper editorial snippets with mean human sentiment ratings",
            "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        ),
    )
}


def locate(name: str, cache: Path | None = None) -> Path:
    """The data set's file in the cache, a TSV named after it; fetched and unpacked when it is not there unharmed.

    Raises DataError for an unknown name, FetchError when it cannot be had, StorageError when it cannot be stored.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise DataError(
            f"No data set of the catalogue is called `{name}`: there are {listed(CATALOGUE)}."
            + did_you_mean(name, CATALOGUE)
        )
    path = (cache or cache_dir()) / "data" / f"{name}.tsv"
    with storage_errors(path):
        if not (path.is_file() and sha256_of(path) == entry.sha256):
            _unpack(entry, path, cache)
    return path


def _unpack(entry: Entry, path: Path, cache: Path | None) -> None:
    archive = fetch(_VADER, cache)
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "inner.tar.gz"
        extract_member(archive, _INNER, inner)
        extract_member(inner, entry.member, path)
