"""What an adapter may be called."""

from __future__ import annotations

import re

from pefttune.errors import AdapterError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = frozenset({"base", "default"})


def check_name(name: str) -> str:
    """The name, if it is safe as a folder on every system. Raises AdapterError."""
    if not NAME.fullmatch(name) or ".." in name or name in RESERVED:
        raise AdapterError(
            f"{name!r} cannot name an adapter: use small letters, digits, '-', '_' and single dots, begin with a "
            f"letter or digit, at most 64 of them, and none of {', '.join(sorted(RESERVED))}"
        )
    return name
