"""An adapter as it goes out: a version of the store, file by file, with a card and results made for its repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pefttune import store
from pefttune.bases import BASES
from pefttune.errors import AdapterError
from pefttune.methods import configuration
from pefttune.methods.weights import CONFIG
from pefttune.publishing.bom import bill
from pefttune.publishing.card import render_card, vllm_rank
from pefttune.publishing.files import BOM, CARD, RESULTS
from pefttune.publishing.hub import check_repo_id
from pefttune.publishing.lint import lint
from pefttune.publishing.results import leaderboard
from pefttune.publishing.signing import write_signature
from pefttune.recipe import recipe_from_mapping
from pefttune.store.manifest import SIGNATURE


@dataclass(frozen=True)
class File:
    """A file of a publication: its name in the repository, where it lies here, its size and sha256."""

    name: str
    path: Path
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Publication:
    """What is published in `repo_id`: these files and no other, and what is worth a thought before."""

    name: str
    repo_id: str
    private: bool
    files: tuple[File, ...]
    warnings: tuple[str, ...]


@contextmanager
def prepare(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    benchmark: str | None = None,
    key: Path | None = None,
) -> Iterator[Publication]:
    """The publication of the version in `folder`, whose files are there until the block ends. Nothing is sent.

    `license` is the adapter's where its recipe names none; `benchmark` the task of its data set's leaderboard on the
    Hub, if the result is to stand there; `key` a private key to sign with. Raises AdapterError with every reason not to
    publish it.
    """
    check_repo_id(repo_id)
    with store.copied(folder) as staging:
        manifest = store.read_manifest(staging)
        recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}")
        license = license or _license(manifest)
        _fill(staging, manifest, repo_id, license)
        found = lint(staging, store.read_manifest(staging), license, private=private)
        if found.errors:
            told = "\n  ".join(found.errors)
            raise AdapterError(f"{manifest['name']} cannot be published as it is:\n  {told}")
        if key is not None:
            write_signature(staging, key, staging / SIGNATURE)
        if benchmark is not None:
            _add_result(staging, manifest, benchmark)
        yield Publication(manifest["name"], repo_id, private, tuple(_files(staging)), found.warnings)


def _license(manifest: dict[str, Any]) -> str | None:
    """The recipe's, or that of a base of the catalogue."""
    base = BASES.get(manifest["base"]["source"])
    own: str | None = manifest["recipe"]["output"]["license"]
    return own or (base.license if base else None)


def _fill(staging: Path, manifest: dict[str, Any], repo_id: str, license: str | None) -> None:
    """The adapter's files as they are, but a card for those who find it and a bill of materials, and the manifest with
    the sha256 of these. A signature was of other files."""
    (staging / SIGNATURE).unlink(missing_ok=True)
    config = configuration.read(staging, manifest["files"][CONFIG])
    card = render_card(manifest, repo_id=repo_id, license=license, vllm_rank=vllm_rank(manifest, config))
    (staging / CARD).write_text(card, encoding="utf-8")
    materials = json.dumps(bill(manifest, license), indent=1, ensure_ascii=False)
    (staging / BOM).write_text(materials + "\n", encoding="utf-8")
    content = {key: value for key, value in manifest.items() if key not in ("format", "files")}
    store.write_manifest(staging, content)


def _add_result(staging: Path, manifest: dict[str, Any], benchmark: str) -> None:
    name, content = leaderboard(manifest, benchmark)
    (staging / RESULTS).mkdir()
    (staging / RESULTS / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _files(staging: Path) -> Iterator[File]:
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield File(path.relative_to(staging).as_posix(), path, path.stat().st_size, digest)
