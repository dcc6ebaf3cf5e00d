"""Where the rows of each part come from: the catalogue, files, or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pefttune.data.catalogue import CATALOGUE, Entry, locate
from pefttune.data.config import DataConfig, Format
from pefttune.data.example import Row
from pefttune.data.faults import OnBadRow
from pefttune.data.hints import did_you_mean, listed
from pefttune.data.hub import hub_splits
from pefttune.data.readers import ENDINGS, format_of, read_rows
from pefttune.errors import DataError

PARTS = ("train", "validation", "test")
_Names = Mapping[str, tuple[str, ...]]
"""Part → its files, names of the catalogue, or splits."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Part → the rows of each of its sources, for the parts that have any, always `train`; and what they are called."""

    rows: dict[str, list[Iterator[Row]]]
    name: str
    entries: tuple[Entry, ...] = ()


def open_sources(config: DataConfig, on_bad_row: OnBadRow) -> Sources:
    """Find every source and begin to read it. Raises DataError, FetchError or StorageError."""
    if config.source is not None and is_hub_id(config.source):
        return _from_hub(config, config.source)
    return _from_files(config, on_bad_row)


def is_hub_id(source: str) -> bool:
    """Whether it can only be a Hub id: not in the catalogue, no path that exists, no file's ending.

    A single word with a dot is taken for a file.
    """
    if source in CATALOGUE or os.path.exists(os.path.expanduser(source)) or Path(source).suffix.lower() in ENDINGS:
        return False
    return re.fullmatch(r"\w[\w-]*|\w[\w.-]*/\w[\w.-]*", source) is not None


def _from_files(config: DataConfig, on_bad_row: OnBadRow) -> Sources:
    if config.source is not None and config.train is not None:
        raise DataError(f"`data.source` is `{config.source}`, whose rows are trained on: leave out it or `data.train`")
    names = _given(config.source or config.train, config)
    every = _refuse_same(names)
    files = [name for name in every if name not in CATALOGUE]
    _refuse_unused(config, hub=False, files=bool(files))
    return Sources(
        rows={part: [read_source(name, config, on_bad_row) for name in own] for part, own in names.items()},
        name=" + ".join(Path(name).name if name in files else name for name in every),
        entries=tuple(CATALOGUE[name] for name in every if name in CATALOGUE),
    )


def read_source(name: str, config: DataConfig, on_bad_row: OnBadRow) -> Iterator[Row]:
    """The rows of one file or data set of the catalogue, read as the recipe's `data` section says."""
    if name in CATALOGUE:
        return read_rows(locate(name), column_names=CATALOGUE[name].columns, on_bad_row=on_bad_row)
    if config.format == "auto" and is_hub_id(name):
        raise DataError(
            f"`{name}` is no file and not in the catalogue.{did_you_mean(name, CATALOGUE)} "
            "A Hub data set is given as `data.source`, and its splits as `data.train` and so on."
        )
    path = Path(os.path.expanduser(name))
    return read_rows(path, format=_format(path, config), column_names=config.column_names, on_bad_row=on_bad_row)


def _format(path: Path, config: DataConfig) -> Format:
    if config.format != "auto":
        return config.format
    try:
        return format_of(path)
    except DataError as error:
        raise DataError(f"{error}, or set `data.format`") from None


def _from_hub(config: DataConfig, identifier: str) -> Sources:
    _refuse_unused(config, hub=True, files=False)
    try:
        splits = hub_splits(identifier, config.config_name, config.revision)
    except DataError as error:
        raise DataError(f"{error}{did_you_mean(identifier, CATALOGUE)}") from error
    names = _hub_names(config, identifier, list(splits))
    _refuse_same(names)
    name = f"{identifier}@{config.revision}" if config.revision else identifier
    return Sources({part: [splits[split] for split in own] for part, own in names.items()}, name)


def _hub_names(config: DataConfig, identifier: str, splits: list[str]) -> _Names:
    """Part → splits: those that the recipe names, then those that are named like a part and not taken yet."""
    names = _given(config.train, config)
    if not names and len(splits) == 1:
        return {"train": (splits[0],)}
    taken = [(part, split) for part, own in names.items() for split in own]
    for part, split in taken:
        if split not in splits:
            raise DataError(
                f"`data.{part}`: `{identifier}` has no split `{split}`, but {listed(splits)}."
                + did_you_mean(split, splits)
            )
    left = set(splits) - {split for _, split in taken}
    own = {part: (part,) for part in PARTS if part in left and part not in names}
    if "train" not in {**own, **names}:
        raise DataError(f"Name one of the splits of `{identifier}` as `data.train`: {listed(splits)}")
    return {**own, **names}


def _given(train: str | tuple[str, ...] | None, config: DataConfig) -> _Names:
    given = {"train": train, "validation": config.validation, "test": config.test}
    return {part: (own,) if isinstance(own, str) else own for part, own in given.items() if own is not None}


def _refuse_same(names: _Names) -> list[str]:
    """Every name, in order, when none stands twice."""
    every = [name for own in names.values() for name in own]
    for part, own in names.items():
        for name in own:
            if every.count(name) > 1:
                raise DataError(f"`{name}` is given for more than one part of the data, one of them `{part}`")
    return every


def _refuse_unused(config: DataConfig, *, hub: bool, files: bool) -> None:
    for_hub = {"revision": config.revision, "config_name": config.config_name}
    for_files = {"format": None if config.format == "auto" else config.format, "column_names": config.column_names}
    unused = {**({} if hub else for_hub), **({} if files else for_files)}
    if set_ones := [f"data.{key}" for key, value in unused.items() if value is not None]:
        kind = "Hub data sets" if not hub and any(for_hub.values()) else "files"
        raise DataError(f"{listed(set_ones)} would have no effect on this source (it is for {kind}): leave it out")
