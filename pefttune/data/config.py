"""What this room reads of a recipe: the shape of its `data` section."""

# ruff: noqa: D102 - a field is explained where it is defined, in the recipe's schema
from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

Format = Literal["auto", "json", "jsonl", "csv", "tsv", "parquet", "conll"]


class BinConfig(Protocol):
    """An open interval of a numeric label."""

    def holds(self, value: float) -> bool: ...


class SplitConfig(Protocol):
    """The fractions that are split off."""

    @property
    def validation(self) -> float: ...

    @property
    def test(self) -> float: ...


class DataConfig(Protocol):
    """The `data` section."""

    @property
    def source(self) -> str | None: ...

    @property
    def train(self) -> str | tuple[str, ...] | None: ...

    @property
    def validation(self) -> str | tuple[str, ...] | None: ...

    @property
    def test(self) -> str | tuple[str, ...] | None: ...

    @property
    def revision(self) -> str | None: ...

    @property
    def config_name(self) -> str | None: ...

    @property
    def format(self) -> Format: ...

    @property
    def column_names(self) -> tuple[str, ...] | None: ...

    @property
    def columns(self) -> Mapping[str, str]: ...

    @property
    def label_bins(self) -> Mapping[str, BinConfig] | None: ...

    @property
    def split(self) -> SplitConfig: ...

    @property
    def max_train_samples(self) -> int | None: ...

    @property
    def max_eval_samples(self) -> int | None: ...

    @property
    def max_test_samples(self) -> int | None: ...

    @property
    def max_bad_rows(self) -> int: ...
