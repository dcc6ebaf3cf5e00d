"""How long the examples would be without a limit, and what the limit cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pefttune.data import Example, Row
from pefttune.doctor.case import PARTS, TRAIN
from pefttune.doctor.finding import ROWS_NAMED, Finding, Level
from pefttune.recipe import schema
from pefttune.tasks import Encoder


@dataclass(frozen=True)
class Lengths:
    """Tokens of a part's rows before `data.max_length` cuts them: of prompt and answer, or where the limit is for each
    of these, of the longer one. And what it cuts: `tokens` and `tokens_lost` are of both."""

    median: int
    percentile_90: int
    percentile_99: int
    longest: int
    longest_row: str
    tokens: int
    cut_rows: int
    first_cut: tuple[str, ...]
    tokens_lost: int


def measure(rows: Sequence[Row], examples: Sequence[Example], unlimited: Encoder, *, apart: bool = False) -> Lengths:
    """The lengths of a part. `unlimited` is the encoder without a limit; rows that lost something go through it.
    `apart`: prompt and answer each have the limit, as in an encoder-decoder."""
    by_row: dict[str, list[Example]] = {}
    for example in examples:
        by_row.setdefault(example.origin, []).append(example)
    whole = {origin: _sizes(own[:1], apart) for origin, own in by_row.items()}
    lost = 0
    for row in rows:
        own = by_row[row.origin]
        if any(map(_is_cut, own)) or len(own) > 1:
            whole[row.origin] = _sizes(unlimited(row), apart)
        if any(map(_is_cut, own)):
            lost += sum(whole[row.origin]) - sum(_sizes(own, apart))
    limited = {origin: max(sizes) for origin, sizes in whole.items()}
    median, ninetieth, ninety_ninth = np.percentile(list(limited.values()), (50, 90, 99), method="higher").tolist()
    longest = max(limited, key=limited.__getitem__)
    cut = list(dict.fromkeys(example.origin for example in examples if _is_cut(example)))
    return Lengths(
        median=median,
        percentile_90=ninetieth,
        percentile_99=ninety_ninth,
        longest=limited[longest],
        longest_row=longest,
        tokens=sum(map(sum, whole.values())),
        cut_rows=len(cut),
        first_cut=tuple(cut[:ROWS_NAMED]),
        tokens_lost=lost,
    )


def _sizes(windows: Sequence[Example], apart: bool) -> tuple[int, ...]:
    """Tokens of what the limit is for, the most of all windows of a row."""
    if not apart:
        return (max(map(len, windows)),)
    prompts = [len(window.prompt) for window in windows]
    return max(prompts), max(len(window) - of for window, of in zip(windows, prompts, strict=True))


def _is_cut(example: Example) -> bool:
    return example.truncated or example.answer_limit == "data.max_length"


def check_lengths(
    lengths: Mapping[str, Lengths], data: schema.Data, positions: int | None, virtual: int = 0
) -> Iterator[Finding]:
    """A limit that is beyond the base, where an adapter puts `virtual` tokens before each text, and rows that are
    longer than the limit."""
    limit = data.max_length
    if positions is not None and limit + virtual > positions:
        told = f"data.max_length is {limit:,} tokens, but the base has {positions:,} positions"
        told += f", of which adapter.num_virtual_tokens takes {virtual:,}" if virtual else ""
        yield Finding("beyond-positions", "error", told, f"Set it to {positions - virtual} or less.")
    for part, of in lengths.items():
        if not of.cut_rows:
            continue
        told = f"{of.cut_rows:,} {PARTS[part]} rows do not fit data.max_length = {limit:,} tokens and "
        if data.too_long == "drop" and part == TRAIN:
            told += "are dropped"
        elif data.too_long == "error":
            told += "stop the run (data.too_long)"
        else:
            told += f"lose their end: {of.tokens_lost:,} tokens, {of.tokens_lost / of.tokens:.1%} of all"
        mend = f"The longest has {of.longest:,} tokens" + (
            f", and the base reads no more than {positions:,}." if positions and positions < of.longest else "."
        )
        level: Level = "error" if data.too_long == "error" else "warning"
        yield Finding("cut", level, told, mend, of.first_cut, of.cut_rows)
