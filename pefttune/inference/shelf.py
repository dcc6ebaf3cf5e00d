"""The adapters of a session by name: which are on the base, and where those lie that can be read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pefttune.errors import AdapterError
from pefttune.inference.loaded import Loaded


@dataclass(frozen=True)
class Source:
    """The folder of a stored adapter, and the sha256 of its weights: new weights under an old name are another one."""

    folder: Path
    sha256: str


class Shelf:
    """Adapters in the order in which they were last used. Those that were read from a folder may be taken off the base,
    the least recently used first, to keep `limit_bytes`; asked for again they are `read` anew."""

    def __init__(self, limit_bytes: int | None, read: Callable[[Source], Loaded]) -> None:
        self._limit, self._read = limit_bytes, read
        self._loaded: dict[str, Loaded] = {}
        self._sources: dict[str, Source] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, those on the base first, the least recently used of these at the front."""
        return tuple({**self._loaded, **self._sources})

    @property
    def resident(self) -> tuple[str, ...]:
        """Those on the base."""
        return tuple(self._loaded)

    def source(self, name: str) -> Source | None:
        """Where the adapter comes from; None for one that was made here."""
        return self._sources.get(name)

    def get(self, name: str) -> Loaded:
        """The adapter, read again if need be; it is now the most recently used. Raises AdapterError."""
        if name not in self._loaded:
            if name not in self._sources:
                raise AdapterError(f"no adapter {name!r} in this session; it holds {', '.join(self.names) or 'none'}")
            self._put(name, self._read(self._sources[name]))
        self._loaded[name] = self._loaded.pop(name)
        return self._loaded[name]

    def add(self, name: str, loaded: Loaded, source: Source | None = None) -> Loaded:
        """Take in an adapter under a free name."""
        if name in self.names:
            raise AdapterError(f"the session already holds an adapter {name!r}; remove it first")
        self._put(name, loaded)
        if source is not None:
            self._sources[name] = source
        return loaded

    def remove(self, name: str) -> None:
        """Take an adapter off the base and forget it."""
        if name not in self.names:
            self.get(name)  # says so
        if name in self._loaded:
            self._take_off(name)
        self._sources.pop(name, None)

    def _put(self, name: str, loaded: Loaded) -> None:
        self._loaded[name] = loaded
        if self._limit is None:
            return
        for other in [each for each in self._loaded if each in self._sources and each != name]:
            if sum(each.nbytes for each in self._loaded.values()) <= self._limit:
                break
            self._take_off(other)

    def _take_off(self, name: str) -> None:
        adapter = self._loaded.pop(name).adapter
        if adapter is not None:
            adapter.detach()
