"""Where adapters are kept: versioned folders, written whole, each with a manifest."""

from pefttune.store.folder import check_name, commit, find, names, staged, versions
from pefttune.store.manifest import MANIFEST, read_manifest, write_manifest

__all__ = [
    "MANIFEST",
    "check_name",
    "commit",
    "find",
    "names",
    "read_manifest",
    "staged",
    "versions",
    "write_manifest",
]
