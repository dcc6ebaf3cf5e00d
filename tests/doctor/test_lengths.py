"""Lengths before the limit, and what it cuts. The tiny tokenizer counts bytes."""

from __future__ import annotations

from typing import Any

import pytest

from pefttune import tasks
from pefttune.data import Example
from pefttune.doctor.lengths import check_lengths, measure
from pefttune.recipe import schema
from pefttune.recipe import tasks as sections

HEAD = sections.TextClassification(type="text-classification", approach="head", labels=("x", "y"))


@pytest.fixture
def measured(tokenizer: Any, rows_of: Any) -> Any:
    """Lengths of texts of so many bytes under a limit; a head adds no token here."""

    def run(sizes: list[int], limit: int) -> Any:
        encoders = [tasks.get(HEAD).encoder(tokenizer, most, causal=True) for most in (limit, 10**6)]
        rows = rows_of([("a" * size, "x") for size in sizes])
        return measure(rows, [each for row in rows for each in encoders[0](row)], encoders[1])

    return run


def test_lengths_are_those_before_the_cut(measured: Any) -> None:
    lengths = measured([*range(1, 100), 500], 64)
    assert (lengths.median, lengths.percentile_90, lengths.percentile_99) == (51, 91, 500)
    assert (lengths.longest, lengths.longest_row) == (500, "train.csv:100")
    assert lengths.tokens == sum(range(1, 100)) + 500
    assert (lengths.cut_rows, lengths.first_cut[0]) == (36, "train.csv:65")
    assert lengths.tokens_lost == sum(size - 64 for size in range(65, 100)) + 436


def test_windows_of_one_row_are_one_length(tokenizer: Any, rows_of: Any) -> None:
    [row] = rows_of([("a" * 100, "x")])
    windows = [Example((1,) * 60, (), 0, row.origin), Example((1,) * 60, (), 0, row.origin)]
    lengths = measure([row], windows, tasks.get(HEAD).encoder(tokenizer, 10**6, causal=True))
    assert (lengths.longest, lengths.cut_rows, lengths.tokens_lost) == (100, 0, 0)


def test_text_and_answer_of_an_encoder_decoder_have_the_limit_each(rows_of: Any) -> None:
    rows = rows_of([("a", "x"), ("b", "x"), ("c", "x")])

    def example(row: Any, prompt: int, answer: int) -> Any:
        cut = {"truncated": prompt > 64, "answer_limit": "data.max_length" if answer > 64 else ""}
        return Example((1,) * min(prompt, 64), ((1,) * min(answer, 64),), 0, row.origin, **cut)

    whole = {rows[0].origin: (60, 50), rows[1].origin: (100, 70), rows[2].origin: (10, 20)}
    lengths = measure(
        rows,
        [example(row, *whole[row.origin]) for row in rows],
        lambda row: (Example((1,) * whole[row.origin][0], ((1,) * whole[row.origin][1],), 0, row.origin),),
        apart=True,
    )
    assert (lengths.median, lengths.longest, lengths.cut_rows, lengths.first_cut) == (60, 100, 1, (rows[1].origin,))
    assert (lengths.tokens, lengths.tokens_lost) == (310, 36 + 6)


@pytest.mark.parametrize(
    ("too_long", "level", "told"),
    [
        ("truncate", "warning", "1 training rows do not fit data.max_length = 64 tokens and lose their end: 36 tokens"),
        ("drop", "warning", "1 training rows do not fit data.max_length = 64 tokens and are dropped"),
        ("error", "error", "1 training rows do not fit data.max_length = 64 tokens and stop the run"),
    ],
)
def test_cut_rows(measured: Any, too_long: Any, level: str, told: str) -> None:
    data = schema.Data(source="x.csv", max_length=64, too_long=too_long)
    [finding] = check_lengths({"train": measured([10, 100], 64)}, data, 512)
    assert (finding.check, finding.level, finding.where) == ("cut", level, ("train.csv:2",))
    assert finding.what.startswith(told)
    assert finding.mend == "The longest has 100 tokens."


def test_test_rows_are_never_dropped(measured: Any) -> None:
    data = schema.Data(source="x.csv", max_length=64, too_long="drop")
    [finding] = check_lengths({"test": measured([100], 64)}, data, 80)
    assert "lose their end: 36 tokens, 36.0% of all" in finding.what
    assert finding.mend == "The longest has 100 tokens, and the base reads no more than 80."


@pytest.mark.parametrize(("positions", "told"), [(64, []), (63, ["beyond-positions"]), (None, [])])
def test_a_limit_beyond_the_base(measured: Any, positions: int | None, told: list[str]) -> None:
    data = schema.Data(source="x.csv", max_length=64)
    found = list(check_lengths({"train": measured([10], 64)}, data, positions))
    assert [finding.check for finding in found if finding.level == "error"] == told


def test_virtual_tokens_take_positions_too(measured: Any) -> None:
    data = schema.Data(source="x.csv", max_length=64)
    assert not list(check_lengths({"train": measured([10], 64)}, data, 84, virtual=20))
    [finding] = check_lengths({"train": measured([10], 64)}, data, 83, virtual=20)
    assert finding.what == (
        "data.max_length is 64 tokens, but the base has 83 positions, of which adapter.num_virtual_tokens takes 20"
    )
    assert finding.mend == "Set it to 63 or less."
