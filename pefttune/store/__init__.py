"""Where adapters are kept: versioned folders, written whole, each with a manifest."""

from pefttune.store.copying import copied
from pefttune.store.folder import alias, commit, find, names, staged, versions
from pefttune.store.holding import Hold
from pefttune.store.manifest import MANIFEST, read_manifest, write_manifest
from pefttune.store.naming import check_name
from pefttune.store.record import read as read_record
from pefttune.store.removing import Removed, remove, tidy
from pefttune.store.replacing import replace_file
from pefttune.store.strict_json import read_json

__all__ = [
    "MANIFEST",
    "Hold",
    "Removed",
    "alias",
    "check_name",
    "commit",
    "copied",
    "find",
    "names",
    "read_json",
    "read_manifest",
    "read_record",
    "remove",
    "replace_file",
    "staged",
    "tidy",
    "versions",
    "write_manifest",
]
