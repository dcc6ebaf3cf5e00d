"""Division by content."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pefttune.data import Row
from pefttune.data.content import canonical_json, fingerprint
from pefttune.data.splits import _place, assign, divide, divide_whole, duplicates_in, keyed, limit, without
from pefttune.errors import DataError

TEXTS = st.lists(st.text(), max_size=60)


def rows_of(texts: list[str]) -> list[Row]:
    return [Row({"text": text, "label": str(number)}, f"a.csv:{number}") for number, text in enumerate(texts)]


def parts_of(texts: list[str]) -> dict[str, set[str]]:
    parts = divide(keyed(rows_of(texts), ["text"]), validation=0.2, test=0.3)
    return {part: {item.row.values["text"] for item in items} for part, items in parts.items()}


def test_the_place_of_a_row_is_the_same_for_ever() -> None:
    # Published adapters name their test rows by this rule: a change of these numbers makes them leak.
    assert assign({"text": "hello"}) == 0.795835305578813
    assert assign({"question": "Why?", "context": "é\n", "n": 1.5}) == 0.8158480441846665
    assert assign({"n": 1.5, "context": "é\n", "question": "Why?"}) == 0.8158480441846665


def test_a_place_is_below_one() -> None:
    assert (_place(b"\x00" * 32), _place(b"\xff" * 32)) == (0, 1 - 2**-53)


@given(TEXTS, TEXTS)
def test_rows_never_wander_when_the_file_grows(old: list[str], new: list[str]) -> None:
    before, after = parts_of(old), parts_of([*new, *old])
    assert all(before[part] <= after[part] for part in before)


@given(TEXTS, st.integers(0, 20), st.randoms())
def test_a_limit_chooses_by_content_and_keeps_the_order(texts: list[str], most: int, order: random.Random) -> None:
    texts = list(dict.fromkeys(texts))
    chosen = [item.row.values["text"] for item in limit(keyed(rows_of(texts), ["text"]), most)]
    assert len(chosen) == min(most, len(texts))
    assert chosen == [text for text in texts if text in chosen]
    shuffled = order.sample(texts, len(texts))
    assert {item.row.values["text"] for item in limit(keyed(rows_of(shuffled), ["text"]), most)} == set(chosen)


@given(TEXTS, st.text(), st.integers(1, 20))
def test_one_more_row_changes_a_limit_by_one_row_at_most(texts: list[str], text: str, most: int) -> None:
    texts = list(dict.fromkeys(texts))
    before = {item.key for item in limit(keyed(rows_of(texts), ["text"]), most)}
    after = {item.key for item in limit(keyed(rows_of([*texts, text]), ["text"]), most)}
    assert len(before - after) <= 1


def test_a_limit_counts_duplicates_as_rows() -> None:
    items = keyed(rows_of(["same"] * 5), ["text"])
    assert [item.row.origin for item in limit(items, 3)] == ["a.csv:0", "a.csv:1", "a.csv:2"]


def test_the_fractions_are_met() -> None:
    parts = parts_of([f"text {number}" for number in range(20_000)])
    # Five standard deviations of a binomial count: sqrt(20000 · 0.3 · 0.7) = 65.
    assert len(parts["test"]) == pytest.approx(6000, abs=325)
    assert len(parts["validation"]) == pytest.approx(4000, abs=285)
    limited = limit(keyed(rows_of(sorted(parts["test"])), ["text"]), 1000)
    # Were the place used again, a limit would take the lowest places only.
    places = [assign({"text": item.row.values["text"]}) for item in limited]
    assert sum(places) / len(places) == pytest.approx(0.15, abs=5 * 0.3 / (12 * 1000) ** 0.5)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.randoms())
def test_rows_of_one_passage_stay_in_one_part(sizes: list[int], order: random.Random) -> None:
    pairs = [(passage, question) for passage, size in enumerate(sizes) for question in range(size)]

    def parts_in(pairs: list[tuple[int, int]]) -> dict[str, set[tuple[int, int]]]:
        rows = [Row({"context": passage, "question": question}, "") for passage, question in pairs]
        parts = divide_whole(keyed(rows, ["context", "question"]), ["context"], validation=0.2, test=0.3)
        return {part: {(i.row.values["context"], i.row.values["question"]) for i in own} for part, own in parts.items()}

    parts = parts_in(pairs)
    assert sum(len({passage for passage, _ in own}) for own in parts.values()) == len(sizes)
    assert sorted(pair for own in parts.values() for pair in own) == pairs
    for part, fraction in (("test", 0.3), ("validation", 0.2)):
        alone = len({passage for passage, _ in parts[part]}) == 1
        # A group is put in or left out by which is nearer, so half of one is the most that can lack or be too much.
        assert alone or abs(len(parts[part]) - fraction * len(pairs)) <= max(sizes) / 2
    assert parts_in(order.sample(pairs, len(pairs))) == parts


def test_whole_passages_leave_rows_in_their_order_and_every_part_with_some() -> None:
    rows = keyed([Row({"context": str(i % 5), "question": str(i)}, f"a:{i}") for i in range(50)], ["question"])
    parts = divide_whole(rows, ["context"], validation=0.02, test=0.02)
    assert {part: len(own) for part, own in parts.items()} == {"train": 30, "validation": 10, "test": 10}
    for own in parts.values():
        assert own == [item for item in rows if item in own]
    assert len(divide_whole(rows, ["context"], validation=0, test=0)["train"]) == 50


def test_the_label_has_no_part_in_it() -> None:
    one, other = keyed([Row({"text": "a", "label": "x"}, ""), Row({"text": "a", "label": "y"}, "")], ["text"])
    assert one.key == other.key


def test_without_and_duplicates() -> None:
    items = keyed(rows_of(["a", "b", "a", "c"]), ["text"])
    assert duplicates_in(items) == 1
    assert [item.row.values["text"] for item in without(items, items[:1])] == ["b", "c"]


def test_canonical_json_tells_rows_apart() -> None:
    assert (
        canonical_json({"b": "é\ud83d", "a": [1, None, True, 0.1]}) == b'{"a":[1,null,true,0.1],"b":"\\u00e9\\ud83d"}'
    )
    assert canonical_json({"a": b"\x01\xff"}) == b'{"a":"01ff"}'
    with pytest.raises(DataError, match=r"^A column holds values of type object, which JSON cannot hold$"):
        canonical_json({"a": object()})


def test_a_fingerprint_depends_on_values_and_order_but_not_on_names_of_files() -> None:
    a, b = Row({"text": "a"}, "x:1"), Row({"text": "b"}, "x:2")
    assert fingerprint([a, b]) == fingerprint([Row({"text": "a"}, "y:7"), b])
    assert len({fingerprint(rows) for rows in ([a, b], [b, a], [a], [])}) == 4
