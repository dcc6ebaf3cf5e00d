"""What a store knows of an adapter beside its versions: names for some of them, and the highest number ever given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pefttune.errors import AdapterError, StorageError
from pefttune.store.holding import in_turn
from pefttune.store.replacing import replace_file
from pefttune.store.strict_json import read_json

RECORD = ".record.json"
MAX_BYTES = 1 << 20


@dataclass
class Record:
    """`aliases` are versions by another name, as in `film@best`; `last` is the highest version ever removed."""

    aliases: dict[str, int] = field(default_factory=dict)
    last: int = 0


def read(home: Path) -> Record:
    """The record of the adapter whose versions are in `home`. Raises AdapterError when it is damaged."""
    path = home / RECORD
    if not path.exists():
        return Record()
    content = read_json(path, MAX_BYTES)
    if not _is_record(content):
        raise AdapterError(f"{path} is damaged: it holds no aliases, or a version that is no number")
    return Record(**content)


def _is_record(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() == {"aliases", "last"}
        and isinstance(content["aliases"], dict)
        and all(type(version) is int for version in (*content["aliases"].values(), content["last"]))
    )


@contextmanager
def changing(home: Path) -> Iterator[Record]:
    """The record, written when the block ends without an error; processes take turns. Raises StorageError where it
    cannot be written."""
    with in_turn(home):
        record = read(home)
        yield record
        try:
            replace_file(home / RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode())
        except OSError as error:
            raise StorageError(f"{home / RECORD} cannot be written: {error.strerror}") from None
