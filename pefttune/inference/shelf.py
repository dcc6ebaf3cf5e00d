"""The adapters of a session by name: which are on the base, and where those lie that can be read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pefttune import methods, store
from pefttune.errors import AdapterError
from pefttune.inference.loaded import Loaded, Purpose


@dataclass(frozen=True)
class Source:
    """The folder of a stored adapter, with sha256 and size of its weights: new weights are another adapter."""

    folder: Path
    sha256: str
    nbytes: int


class Shelf:
    """Adapters in the order in which they were last used. Those that were read from a folder may be taken off the base,
    the least recently used first, to keep `limit_mib`; asked for again they are `read` anew."""

    def __init__(self, model: Any, limit_mib: float | None, read: Callable[[Source], Loaded]) -> None:
        self._model, self._read = model, read
        self._limit = None if limit_mib is None else int(limit_mib * 2**20)
        self._loaded: dict[str, Loaded] = {}
        self._away: dict[str, Purpose] = {}
        self._sources: dict[str, Source] = {}
        self._holds: dict[str, store.Hold] = {}
        self._averages: dict[str, Purpose] = {}
        self._parts: dict[str, tuple[str, ...]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, those on the base first, the least recently used of these at the front; averages last."""
        return tuple({**self._loaded, **self._sources, **self._averages})

    @property
    def resident(self) -> tuple[str, ...]:
        """Those on the base."""
        return tuple(self._loaded)

    def source(self, name: str) -> Source | None:
        """Where the adapter comes from; None for one that was made here."""
        return self._sources.get(name)

    def purpose(self, name: str) -> Purpose:
        """What the adapter is for, without reading it again. Raises AdapterError."""
        if name not in self.names:
            raise AdapterError(f"no adapter {name!r} in this session; it holds {', '.join(self.names) or 'none'}")
        return self._loaded.get(name) or self._away.get(name) or self._averages[name]

    def get(self, name: str) -> Loaded:
        """The adapter, read again if need be; it is now the most recently used. Raises AdapterError."""
        self.purpose(name)
        if name in self._averages:
            raise AdapterError(
                f"{name!r} is the average of {', '.join(self._parts[name])}: give its name to predict(), it cannot be "
                "in use itself"
            )
        if name not in self._loaded:
            self.make_room(self._sources[name].nbytes)
            self._put(name, self._read(self._sources[name]))
        self._loaded[name] = self._loaded.pop(name)
        return self._loaded[name]

    def check_free(self, name: str) -> None:
        """Raise AdapterError when the name is taken."""
        if name in self.names:
            raise AdapterError(f"the session already holds another adapter {name!r}; remove it first")

    def add(
        self,
        name: str,
        loaded: Loaded,
        source: Source | None = None,
        hold: store.Hold | None = None,
        parts: Sequence[str] = (),
    ) -> Loaded:
        """Take in an adapter under a free name, or one that is made of others, its `parts`, which then stay. `hold`
        keeps its folder in the store, for as long as it is here."""
        self.check_free(name)
        self._parts[name] = tuple(parts)
        self._put(name, loaded)
        if source is not None:
            self._sources[name] = source
        if hold is not None:
            self._holds[name] = hold
        return loaded

    def add_average(self, name: str, average: Purpose, parts: Sequence[str]) -> None:
        """Take in what only asks others, its `parts`, which then stay."""
        self.check_free(name)
        self._parts[name] = tuple(parts)
        self._averages[name] = average

    def remove(self, name: str) -> None:
        """Take an adapter off the base and forget it. Raises AdapterError while others are made of it."""
        self.purpose(name)
        if users := [whole for whole, parts in self._parts.items() if name in parts]:
            raise AdapterError(f"{name!r} is a part of {', '.join(map(repr, users))}; remove that first")
        if name in self._loaded:
            self._take_off(name)
        for kept in (self._away, self._sources, self._averages, self._parts):
            kept.pop(name, None)
        if hold := self._holds.pop(name, None):
            hold.release()

    def make_room(self, nbytes: int, beside: str = "") -> None:
        """Take off the base what must go for so many bytes more; not the adapter `beside`, nor a part of others."""
        if self._limit is None:
            return
        needed = {beside, *chain.from_iterable(self._parts.values())}
        for other in [each for each in self._loaded if each in self._sources and each not in needed]:
            own = sum(each.nbytes for each in self._loaded.values())
            if nbytes + methods.tables_nbytes(self._model) + own <= self._limit:
                break
            self._take_off(other)

    def _put(self, name: str, loaded: Loaded) -> None:
        self._loaded[name] = loaded
        self._away.pop(name, None)
        self.make_room(0, beside=name)  # what it shares with the others is known only now

    def _take_off(self, name: str) -> None:
        loaded = self._loaded.pop(name)
        self._away[name] = Purpose(loaded.task, loaded.encoder, loaded.max_length, vocabulary=loaded.vocabulary)
        if loaded.adapter is not None:
            methods.detach(self._model, loaded.adapter)
