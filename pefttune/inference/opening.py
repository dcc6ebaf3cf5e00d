"""From an adapter's name to a session that serves it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from pefttune import bases, store
from pefttune.errors import AdapterError
from pefttune.inference.session import Session
from pefttune.recipe import recipe_from_mapping, schema


def open_session(
    name: str | Sequence[str],
    store_folder: Path | str = "adapters",
    base_source: str | None = None,
    max_adapter_mib: float | None = None,
    may_differ: Collection[str] = (),
) -> Session:
    """Load the base that the adapter `name` (or `name@version`) was trained on, and the adapter onto it; or several of
    the same base, of which the first is then in use.

    `base_source` says where the base lies, if this machine has not seen it; it must still be the same base.
    `max_adapter_mib` and `may_differ` are the session's. Raises AdapterError or BaseError.
    """
    names = [name] if isinstance(name, str) else list(name)
    if not names:
        raise AdapterError("open_session() needs the name of an adapter at least")
    folders = [store.find(Path(store_folder), each) for each in names]
    base = load_base_of(folders[0], base_source)
    session = Session(base, max_adapter_mib=max_adapter_mib, may_differ=may_differ)
    for each, folder in zip(names, folders, strict=True):
        session.load(folder, name=each)
    session.use(names[0])
    return session


def load_base_of(folder: Path, base_source: str | None = None) -> bases.Base:
    """A fresh base for the adapter saved in `folder`."""
    manifest = store.read_manifest(folder)
    section = recipe_from_mapping(manifest["recipe"], where=f"{folder.name}/{store.MANIFEST}").base
    section, origin = base_section_of(manifest, section, base_source)
    return bases.load(section, origin=origin)


def base_section_of(
    manifest: dict[str, Any], section: schema.Base, base_source: str | None = None
) -> tuple[schema.Base, str | None]:
    """Where the base of a stored adapter lies on this machine, as a recipe says it, and where it came from, if that is
    pinned; `section` is its recipe's. Raises AdapterError where that is not known."""
    told = manifest["base"]
    # The dtype it was trained in: measured anew, a busy machine may prefer another, and answers would change.
    dtype = "float32" if told["dtype"] == "float16" and not torch.cuda.is_available() else told["dtype"]
    section = section.model_copy(update={"dtype": dtype})
    if base_source is not None:
        return section.model_copy(update={"source": base_source, "revision": None}), None
    if told["hub_id"] is not None:
        return section.model_copy(update={"revision": told["revision"]}), told["origin"]
    known = bases.find_known(bases.Fingerprint(**told["fingerprint"]).digest)
    if known is None:
        raise AdapterError(
            f"{manifest['name']} was trained on {told['origin']!r}, a private base that this machine has not seen; "
            "say where it lies with --base FOLDER"
        )
    return section.model_copy(update={"source": known}), None
