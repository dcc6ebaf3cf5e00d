"""Fetch a published adapter from the Hub into the store: nothing but its files, every one of them checked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import ModelInfo

from pefttune import bases, methods, store
from pefttune.errors import AdapterError
from pefttune.inference import base_section_of, check_base, check_config, check_described
from pefttune.publishing.files import MOST_BYTES, MOST_BYTES_BESIDE, is_ours, strangers
from pefttune.publishing.hub import check_repo_id, hub_errors, siblings_of
from pefttune.publishing.signing import check_signature
from pefttune.recipe import recipe_from_mapping
from pefttune.store.strict_json import shown


@dataclass(frozen=True)
class Pulled:
    """The new version in the store, the commit that it came from, and whether its base, as it lies on this machine, was
    found to be the one that it was trained on; without a base here, that is checked when it is first used."""

    folder: Path
    commit: str
    base_checked: bool


def pull(
    repository: str, store_folder: Path | str = "adapters", name: str | None = None, key: Path | None = None
) -> Pulled:
    """Fetch `OWNER/NAME` or `OWNER/NAME@REVISION` into the store, as a version of `name`, by default the repository's.

    A name that the store has already has to be given, for a stranger's adapter could take the place of one's own. With
    the public `key` of who is to have made it, the adapter has to be signed by that.
    Raises HubError; AdapterError for what was not published by pefttune, was changed, or is of another base than the
    one of that name here. The store is then as it was.
    """
    repo_id, _, revision = repository.partition("@")
    target, called = Path(store_folder), _name_for(check_repo_id(repo_id), Path(store_folder), name)
    with hub_errors(repo_id):
        info = HfApi(library_name="pefttune").model_info(repo_id, revision=revision or None, files_metadata=True)
    _check_listing(repo_id, info)
    with store.staged(target, called) as staging:
        manifest = _download(repo_id, info, staging)
        if key is not None:
            check_signature(staging, key)
        base_checked = _check(staging, manifest)
        return Pulled(store.commit(staging), str(info.sha), base_checked)


def _name_for(repo_id: str, store_folder: Path, name: str | None) -> str:
    if name is not None:
        return store.check_name(name)
    own = repo_id.partition("/")[2]
    try:
        store.check_name(own)
    except AdapterError as error:
        raise AdapterError(f"{error}. Give it a name here with --as NAME") from None
    if present := store.versions(store_folder, own):
        raise AdapterError(
            f"the store {store_folder} has an adapter {own!r} already: say --as {own} to make this one its version "
            f"{present[-1] + 1}, or --as and another name"
        )
    return own


def _check_listing(repo_id: str, info: ModelInfo) -> None:
    """Raise AdapterError before anything is fetched, unless the repository holds an adapter and nothing else."""
    sizes = {sibling.rfilename: sibling.size for sibling in siblings_of(info)}
    if store.MANIFEST not in sizes:
        raise AdapterError(
            f"{repo_id} holds no {store.MANIFEST}, so pefttune did not publish it: nothing says which base it needs, "
            "or that its files are those of its training. PEFT itself may load it"
        )
    for name, size in sizes.items():
        if not is_ours(name):
            raise AdapterError(f"{repo_id} holds '{shown(name)}', which is no file of an adapter; nothing was fetched")
        most = {**MOST_BYTES, **MOST_BYTES_BESIDE}.get(name)
        if most is not None and (size is None or size > most):
            told = "an unknown number of" if size is None else f"{size:,}"
            raise AdapterError(f"{repo_id}: {name} has {told} bytes, and an adapter's may have {most:,}")
    if missing := sorted(MOST_BYTES.keys() - sizes.keys()):
        raise AdapterError(f"{repo_id} lacks {', '.join(missing)}; nothing was fetched")


def _download(repo_id: str, info: ModelInfo, staging: Path) -> dict[str, Any]:
    """Fetch the adapter's files and give its manifest. That is judged first, then the configuration, and the weights
    come last of all, if the Hub says that they are those of the manifest."""
    scratch = staging / "download"
    _fetch(repo_id, info, scratch, store.MANIFEST)
    manifest = store.read_manifest(scratch, check_files=False)
    if strange := strangers(manifest["files"]):
        raise AdapterError(f"{repo_id}: {store.MANIFEST} names other files than an adapter has: {shown(strange)}")
    _check_digests(repo_id, info, manifest["files"])
    recipe_from_mapping(manifest["recipe"], where=f"{repo_id}: {store.MANIFEST}")
    _fetch(repo_id, info, scratch, methods.weights.CONFIG)
    check_config(scratch, manifest)
    there = {sibling.rfilename for sibling in siblings_of(info)}
    for name in (*MOST_BYTES, *(MOST_BYTES_BESIDE.keys() & there)):
        _fetch(repo_id, info, scratch, name)
        (scratch / name).rename(staging / name)
    shutil.rmtree(scratch)
    return manifest


def _fetch(repo_id: str, info: ModelInfo, scratch: Path, name: str) -> None:
    if not (scratch / name).is_file():
        with hub_errors(repo_id):
            hf_hub_download(repo_id, name, revision=info.sha, local_dir=scratch, library_name="pefttune")


def _check_digests(repo_id: str, info: ModelInfo, files: dict[str, str]) -> None:
    """Raise AdapterError where the Hub's own digests already tell that a file is not the manifest's."""
    for sibling in siblings_of(info):
        known = sibling.lfs.sha256 if sibling.lfs else None
        if known and files.get(sibling.rfilename, known) != known:
            raise AdapterError(
                f"{repo_id}: {sibling.rfilename} has been changed or damaged: its sha256 is not the one it was saved "
                "with; it was not fetched"
            )


def _check(staging: Path, manifest: dict[str, Any]) -> bool:
    """Whether the base lies here and was checked, too. Raises AdapterError for anything that is not as it was saved."""
    store.read_manifest(staging)
    methods.weights.check(staging, manifest["files"][methods.weights.WEIGHTS])
    check_described(staging, manifest)
    recipe = recipe_from_mapping(manifest["recipe"], where=store.MANIFEST)
    try:
        section, origin = base_section_of(manifest, recipe.base)
    except AdapterError:  # a private base, that this machine has not seen
        return False
    folder = bases.local_folder(section.source, section.revision, origin, weights=True)
    if folder is None:
        return False
    check_base(manifest, bases.fingerprint_of(section.model_copy(update={"source": str(folder), "revision": None})))
    return True
