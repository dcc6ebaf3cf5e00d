"""Where a base comes from: every way of naming one ends in a local folder that `from_pretrained` reads."""

from __future__ import annotations

import difflib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pefttune.bases.catalogue import BASES, CatalogueBase, HubSource, PackageFolder, PackageSource
from pefttune.bases.gguf import convert, converted
from pefttune.bases.safety import read_json
from pefttune.data import cache_dir, extract_member, fetch
from pefttune.data.storage import storage_errors
from pefttune.errors import BaseError, FetchError, PefttuneError, StorageError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
MAX_INDEX_BYTES = 64 << 20
WEIGHT_FILES = "*.safetensors"
MODEL_FILES = ("*.json", WEIGHT_FILES, "*.model", "*.jinja", "*.txt")


@dataclass(frozen=True)
class Located:
    """A base on this machine.

    `folder` holds it; `hub_id` and `revision` say what the world calls it (None for a private folder or file); `origin`
    says where it came from, without a path of this machine, and can be given to `locate` again.
    """

    folder: Path
    hub_id: str | None
    revision: str | None
    origin: str


def locate(source: str, revision: str | None = None, origin: str | None = None, *, weights: bool = True) -> Located:
    """Find the base named `source`, fetching it if need be; from the Hub without its weights if they are not wanted.

    `origin` pins one source of a catalogue name: the one an adapter was trained on. Raises BaseError or FetchError.
    """
    if source in BASES:
        return _from_catalogue(source, BASES[source], revision, origin, weights)
    path = Path(source).expanduser()
    if revision is not None and path.exists():
        raise BaseError(f"base.revision: {source} lies on this machine and has no revisions; leave it out")
    if path.suffix == ".gguf":
        return Located(converted(path), None, None, path.name)
    if path.is_dir():
        return Located(path, None, None, path.resolve().name)
    if path.exists():
        raise BaseError(f"base.source: {source} is a file, but neither a model folder nor a .gguf file")
    if source.startswith((".", "/", "~")) or not HUB_ID.fullmatch(source):
        raise BaseError(f"base.source: there is no folder or file {source}")
    return _from_hub(HubSource(source, revision), weights)


def local_folder(
    source: str, revision: str | None = None, origin: str | None = None, *, weights: bool = False
) -> Path | None:
    """The folder of the base named `source`, if it lies on this machine as it is, with its weights if they are wanted;
    nothing is fetched or converted. `origin` pins one source of a catalogue name."""
    if source in BASES:
        for each in BASES[source].sources:
            if origin not in (None, str(each)):
                continue
            if isinstance(each, HubSource):
                if found := _in_hub_cache(each, weights):
                    return found.folder
            elif (folder := _package_folder(each)).is_dir():
                return folder
        return None
    if (path := Path(source).expanduser()).exists() or not HUB_ID.fullmatch(source):
        return path if path.is_dir() else None
    found = _in_hub_cache(HubSource(source, revision), weights)
    return None if found is None else found.folder


def _from_catalogue(
    name: str, entry: CatalogueBase, revision: str | None, origin: str | None, weights: bool
) -> Located:
    sources = [source for source in entry.sources if origin in (None, str(source))]
    if revision is not None:  # only the Hub has revisions
        sources = [HubSource(source.id, revision) for source in sources if isinstance(source, HubSource)]
    for source in sources:  # what is here already needs no network
        if isinstance(source, HubSource) and (found := _in_hub_cache(source)):
            return found
        if not isinstance(source, HubSource) and (folder := _package_folder(source)).is_dir():
            return Located(folder, entry.hub_id, None, str(source))
    faults: list[str] = []
    for source in sources:
        try:
            if isinstance(source, HubSource):
                return _from_hub(source, weights)
            return Located(_from_package(source), entry.hub_id, None, str(source))
        except PefttuneError as error:
            faults.append(f"  {source}: {error}")
    raise FetchError(f"base.source: none of the sources of {name!r} could be had:\n" + "\n".join(faults))


def _in_hub_cache(source: HubSource, weights: bool = True) -> Located | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # By the patterns of the download: else huggingface_hub 2 takes for missing what that left out.
        found = snapshot_download(
            source.id, revision=source.revision, allow_patterns=_wanted(weights), local_files_only=True
        )
        folder = Path(found)
    except HFValidationError as error:
        raise BaseError(
            f"base.source: {source.id!r} is no folder or file here, and no id on the Hub: {error}"
        ) from None
    except LocalEntryNotFoundError:
        return None
    enough = _is_whole(folder) if weights else _has_tokenizer(folder)
    return Located(folder, source.id, folder.name, str(source)) if enough else None


def _wanted(weights: bool) -> list[str]:
    """Which files of a repository a base is read from."""
    return [pattern for pattern in MODEL_FILES if weights or pattern != WEIGHT_FILES]


def _has_tokenizer(folder: Path) -> bool:
    """Whether a snapshot holds all but the weights, config and tokenizer."""
    vocabularies = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in vocabularies)


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot holds a model: it may have only a tokenizer, or be an interrupted download."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(read_json(index, MAX_INDEX_BYTES)["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _from_hub(source: HubSource, weights: bool = True) -> Located:
    if found := _in_hub_cache(source, weights):
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(snapshot_download(source.id, revision=source.revision, allow_patterns=_wanted(weights)))
    except RepositoryNotFoundError:
        raise BaseError(f"{source.id!r} is not on the Hub, or is private or gated{_suggestion(source.id)}") from None
    except RevisionNotFoundError:
        raise BaseError(f"base.revision: {source.id} has no revision {source.revision!r} on the Hub") from None
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise StorageError(f"no room on the disk for {source.id}: {error}") from None
        raise _unreachable(source, error) from None
    except Exception as error:
        raise _unreachable(source, error) from None
    return Located(folder, source.id, folder.name, str(source))


def _unreachable(source: HubSource, error: Exception) -> BaseError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BaseError(
        f"{source.id!r} could not be fetched from the Hub (is there a network?): {reason[:200]}. "
        f"A local folder or .gguf file in base.source needs no network{_suggestion(source.id)}"
    )


def _suggestion(source: str) -> str:
    close = difflib.get_close_matches(source.lower().split("/")[-1], BASES, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; names known without the Hub: {', '.join(BASES)}"


def _package_folder(source: PackageSource | PackageFolder) -> Path:
    return cache_dir() / "bases" / f"{source.pin.package}-{source.pin.version}-{source.pin.sha256[:16]}"


def _from_package(source: PackageSource | PackageFolder) -> Path:
    """The model folder of a pinned package, or its GGUF file, converted; that file itself is not kept, since the folder
    replaces it."""
    archive = fetch(source.pin)
    if isinstance(source, PackageFolder):
        return _extracted(archive, source)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        gguf = Path(scratch) / Path(source.member).name
        extract_member(archive, source.member, gguf)
        return convert(gguf, _package_folder(source))


def _extracted(archive: Path, source: PackageFolder) -> Path:
    """The folder's files, renamed into place when complete."""
    folder = _package_folder(source)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".extracting-") as scratch:
            staging = Path(scratch) / "whole"
            staging.mkdir()
            for name in source.files:
                extract_member(archive, f"{source.folder}/{name}", staging / name)
            try:
                staging.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process extracted it meanwhile
                    raise
    return folder
