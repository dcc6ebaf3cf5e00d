"""Signatures of adapters, by OpenSSF's model-signing: whoever has the public key knows that the folder is the signer's,
with nothing in it changed, added or taken away. Nothing is sent anywhere."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pefttune import store
from pefttune.errors import AdapterError, InputError, StorageError
from pefttune.publishing.files import MOST_BYTES_BESIDE, RESULTS
from pefttune.store.manifest import SIGNATURE
from pefttune.store.strict_json import shown

if TYPE_CHECKING:
    from model_signing.hashing import Config

DIGESTS = re.compile(r": Expected Digest\(.*?\), Actual Digest\(.*?\)(?=, Hash mismatch for|$)", re.DOTALL)
QUOTES = re.compile(r"[\[\]'\"\\]")
INSTALL = "signatures need a package that is not installed: pip install 'pefttune[sign]'"


def sign(folder: Path, key: Path) -> Path:
    """Sign a stored adapter with a private key (elliptic curve, PEM, without a password); gives the signature's file,
    which replaces an older one. Raises AdapterError for files that have changed, which are not signed, InputError for a
    key that cannot be used, StorageError."""
    with store.copied(folder) as copy:
        signature = copy.parent / SIGNATURE
        write_signature(copy, key, signature)
        try:  # never a file more in the folder itself, while it is written
            store.replace_file(folder / SIGNATURE, signature.read_bytes(), beside=folder.parent)
        except OSError as error:
            raise StorageError(f"the signature could not be saved in {folder}: {error.strerror or error}") from None
    return folder / SIGNATURE


def write_signature(folder: Path, key: Path, signature: Path) -> None:
    """Write the signature of a folder that nobody else writes to. Raises InputError, StorageError."""
    try:
        from model_signing import signing
    except ImportError:
        raise InputError(INSTALL) from None
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(_hashing())
    except Exception as error:  # of the libraries that read keys
        raise InputError(f"--key {key} is no private key of an elliptic curve in PEM: {_told(error)}") from None
    try:
        config.sign(folder, signature)
    except OSError as error:
        raise StorageError(f"the signature could not be saved in {folder}: {error.strerror or error}") from None


def check_signature(folder: Path, key: Path) -> None:
    """Raise AdapterError unless the folder is as the owner of this public key signed it: every file that was changed,
    added or taken away is named. Raises InputError for a key that cannot be used."""
    try:
        from model_signing import verifying
    except ImportError:
        raise InputError(INSTALL) from None
    signature = folder / SIGNATURE
    if not signature.is_file() or signature.stat().st_size > MOST_BYTES_BESIDE[SIGNATURE]:
        raise AdapterError(f"it has no signature ({SIGNATURE}), so nothing says who made it")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(_hashing())
    except Exception as error:
        raise InputError(f"--key {key} is no public key of an elliptic curve in PEM: {_told(error)}") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where it would warn of old signatures
            config.verify(folder, signature)
    except Exception as error:  # whatever a stranger's file leads the library to
        raise AdapterError(f"{SIGNATURE} does not hold for this folder and the key {key}: {_told(error)}") from None


def _hashing() -> Config:
    from model_signing import hashing

    config = hashing.Config().use_file_serialization(allow_symlinks=True).set_allow_symlinks(True)
    return config.set_ignored_paths(paths=[SIGNATURE, RESULTS])


def _told(error: Exception) -> str:
    """What the library says, in letters that a terminal shows: names of files, without their digests."""
    text = DIGESTS.sub("", QUOTES.sub("", str(error))).strip()
    return shown(text) or type(error).__name__
