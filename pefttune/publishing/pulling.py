"""Fetch a published adapter from the Hub into the store: nothing but its files, every one of them checked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import ModelInfo

from pefttune import bases, methods, store
from pefttune.errors import AdapterError
from pefttune.inference import base_section_of, check_base
from pefttune.publishing.files import MOST_BYTES, RESULTS, check_config
from pefttune.publishing.hub import check_repo_id, hub_errors, siblings_of
from pefttune.recipe import recipe_from_mapping
from pefttune.store.manifest import HUBS_OWN


@dataclass(frozen=True)
class Pulled:
    """The new version in the store, the commit that it came from, and whether its base, as it lies on this machine, was
    found to be the one that it was trained on; without a base here, that is checked when it is first used."""

    folder: Path
    commit: str
    base_checked: bool


def pull(repository: str, store_folder: Path | str = "adapters", name: str | None = None) -> Pulled:
    """Fetch `OWNER/NAME` or `OWNER/NAME@REVISION` into the store, as a version of `name`, by default the repository's.

    A name that the store has already has to be given, for a stranger's adapter could take the place of one's own.
    Raises HubError; AdapterError for what was not published by pefttune, was changed, or is of another base than the
    one of that name here. The store is then as it was.
    """
    repo_id, _, revision = repository.partition("@")
    target, called = Path(store_folder), _name_for(check_repo_id(repo_id), Path(store_folder), name)
    with hub_errors(repo_id):
        info = HfApi(library_name="pefttune").model_info(repo_id, revision=revision or None, files_metadata=True)
    _check_listing(repo_id, info)
    with store.staged(target, called) as staging:
        _download(repo_id, str(info.sha), staging)
        base_checked = _check(staging)
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
        if name in HUBS_OWN or name.startswith(RESULTS):
            continue
        if name not in MOST_BYTES:
            raise AdapterError(f"{repo_id} holds {name!r}, which is no file of an adapter; nothing was fetched")
        if size is None or size > MOST_BYTES[name]:
            told = "an unknown number of" if size is None else f"{size:,}"
            raise AdapterError(f"{repo_id}: {name} has {told} bytes, and an adapter's may have {MOST_BYTES[name]:,}")
    if missing := sorted(MOST_BYTES.keys() - sizes.keys()):
        raise AdapterError(f"{repo_id} lacks {', '.join(missing)}; nothing was fetched")


def _download(repo_id: str, commit: str, staging: Path) -> None:
    scratch = staging / "download"
    with hub_errors(repo_id):
        for name in MOST_BYTES:
            hf_hub_download(repo_id, name, revision=commit, local_dir=scratch, library_name="pefttune")
    for name in MOST_BYTES:
        (scratch / name).rename(staging / name)
    shutil.rmtree(scratch)


def _check(staging: Path) -> bool:
    """Whether the base lies here and was checked, too. Raises AdapterError for anything that is not as it was saved."""
    manifest = store.read_manifest(staging)
    recipe = recipe_from_mapping(manifest["recipe"], where=store.MANIFEST)
    check_config(staging, manifest)
    methods.weights.read_any(staging, manifest["files"][methods.weights.WEIGHTS])
    try:
        section, origin = base_section_of(manifest, recipe.base)
    except AdapterError:  # a private base, that this machine has not seen
        return False
    folder = bases.local_folder(section.source, section.revision, origin, weights=True)
    if folder is None:
        return False
    check_base(manifest, bases.fingerprint_of(section.model_copy(update={"source": str(folder), "revision": None})))
    return True
