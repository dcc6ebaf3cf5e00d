"""Where this machine has seen which base, so that an adapter finds its base without carrying a path of the machine."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from pefttune.bases.locate import Located
from pefttune.data import cache_dir


def _index() -> Path:
    return cache_dir() / "known-bases.json"


def _read() -> dict[str, str]:
    try:
        seen = json.loads(_index().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: it is a convenience that fills itself again
        return {}
    return seen if isinstance(seen, dict) else {}


def remember(digest: str, source: str, located: Located) -> None:
    """Note where the base with this fingerprint digest lies, if it lies in a folder or file of the user's."""
    if located.hub_id is not None:
        return
    path = str(Path(source).expanduser().resolve())
    seen = _read()
    if seen.get(digest) == path:
        return
    with suppress(OSError):  # where the cache cannot be written, the base must be named again: no reason to stop
        _index().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_index().parent, delete=False, encoding="utf-8") as file:
            json.dump({**seen, digest: path}, file, indent=1)
        os.replace(file.name, _index())


def find(digest: str) -> str | None:
    """The folder or file in which the base with this fingerprint digest was last seen, if it is still there."""
    path = _read().get(digest)
    return path if path and Path(path).exists() else None
