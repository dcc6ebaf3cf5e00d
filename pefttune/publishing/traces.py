"""Traces of a person or a machine: paths, the user's name in one, tokens."""

from __future__ import annotations

import getpass
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from huggingface_hub import get_token

SHOWN_OF_A_TOKEN = 6
TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bsk-[\w-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bxox[abprs]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Those of the Hub, GitHub, OpenAI and others, AWS, Slack, and private keys."""
SOMEBODYS_HOME = re.compile(r"(?<![\w.])/(?:home|Users)/[\w.-]+|\b[A-Za-z]:\\{1,2}Users\\{1,2}[\w.-]+")


def tokens_in(text: str) -> Iterator[tuple[int, str]]:
    """The number of the line and the beginning of everything that looks like a secret, or is this user's token."""
    own = get_token()
    pattern = re.compile(f"{TOKENS.pattern}|{re.escape(own)}") if own else TOKENS
    for line, match in _found(pattern, text):
        yield line, f"{match[:SHOWN_OF_A_TOKEN]}…"


def paths_in(text: str) -> Iterator[tuple[int, str]]:
    """The number of the line and the path, of everything that tells a folder of a user, or of this machine."""
    here = "|".join(re.escape(folder) for folder in _folders_here())
    patterns = [here]
    with suppress(KeyError, OSError):  # a container may have users without a name
        patterns.append(rf"/(?:[\w.-]+/)*{re.escape(getpass.getuser())}")
    told = "|".join(filter(None, patterns))
    return _found(re.compile(rf"{SOMEBODYS_HOME.pattern}|(?<![\w.:/<])(?:{told})(?![\w-])"), text)


def _folders_here() -> list[str]:
    """Home, working and temporary folder, the longest first, but not where one of them is `/`."""
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())}
    return sorted((str(folder) for folder in folders if folder.parent != folder), key=len, reverse=True)


def _found(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        for match in pattern.finditer(line):
            yield number, match[0]
