"""Tags of every scheme to entities and back, and the likeliest tags that IOB2 allows."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttune.data.faults import RowFault
from pefttune.tasks.tags import Span, as_iob2, classes_of, likeliest, spans


@pytest.mark.parametrize(
    ("scheme", "tags", "iob2"),
    [
        ("IOB2", "O B-a I-a B-a O B-b", "O B-a I-a B-a O B-b"),
        ("IOB1", "I-a I-a B-a I-a I-b O I-b", "B-a I-a B-a I-a B-b O B-b"),
        ("BILOU", "B-a I-a L-a U-a U-b O B-b L-b", "B-a I-a I-a B-a B-b O B-b I-b"),
        ("BIOES", "S-a S-a B-a E-a O", "B-a B-a B-a I-a O"),
        ("IOB2", "B-creative-work I-creative-work", "B-creative-work I-creative-work"),
        ("IOB2", "O", "O"),
    ],
)
def test_tags_of_each_scheme_are_read(scheme: str, tags: str, iob2: str) -> None:
    assert as_iob2(tags.split()) == iob2.split()


def test_space_around_a_tag_is_no_part_of_its_kind() -> None:
    assert as_iob2(["B-PER ", " I-PER\t", "O "]) == ["B-PER", "I-PER", "O"]


BROKEN = "is in has no end, which L- or E- would be"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "PER"], "word 2 has the tag 'PER'; a tag is O, or B-, I-, L-, U-, E- or S- and a kind"),
        (["X-PER"], "word 1 has the tag 'X-PER'; a tag is O, or"),
        (["B-"], "word 1 has the tag 'B-'; a tag is O, or"),
        (["B_PER"], "word 1 has the tag 'B_PER'; a tag is O, or"),
        (["o"], "word 1 has the tag 'o'; a tag is O, or"),
        (["O-PER"], "word 1 has the tag 'O-PER'; a tag is O, or"),
        ([3], "word 1 has the tag 3; a tag is O, or"),
        ([None], "word 1 has the tag None; a tag is O, or"),
        (["L-a"], "word 1 has the tag 'L-a', but no a has begun before it"),
        (["S-a", "I-a"], "word 2 has the tag 'I-a', but no a has begun before it"),
        (["B-a", "E-b"], f"the a that word 1 {BROKEN}"),
        (["B-a", "I-a", "O", "U-a"], f"the a that word 2 {BROKEN}"),
        (["U-a", "B-a"], f"the a that word 2 {BROKEN}"),
    ],
)
def test_a_broken_tag_is_told_with_its_word(tags: list[Any], message: str) -> None:
    with pytest.raises(RowFault) as raised:
        as_iob2(tags)
    assert raised.value.column == "tags"
    assert raised.value.message.startswith(message)


def written(entities: list[tuple[str, int]], scheme: str) -> list[str]:
    """The tags of entities (kind, words), which lie side by side; of kind `O`, they are none."""
    tags: list[str] = []
    for kind, words in entities:
        if kind == "O":
            tags += ["O"] * words
        elif scheme == "IOB1":
            again = bool(tags) and tags[-1][2:] == kind
            tags += [f"{'B' if again else 'I'}-{kind}"] + [f"I-{kind}"] * (words - 1)
        elif scheme == "IOB2":
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (words - 1)
        else:
            one, last = {"BILOU": "UL", "BIOES": "SE"}[scheme]
            several = [f"B-{kind}"] + [f"I-{kind}"] * (words - 2) + [f"{last}-{kind}"]
            tags += several if words > 1 else [f"{one}-{kind}"]
    return tags


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from(["O", "a", "b", "c-d"]), st.integers(1, 4)), max_size=8))
def test_the_same_entities_are_read_of_every_scheme(entities: list[tuple[str, int]]) -> None:
    expected, word = [], 0
    for kind, words in entities:
        if kind != "O":
            expected.append(Span(kind, word, word + words))
        word += words
    for scheme in ("IOB1", "IOB2", "BILOU", "BIOES"):
        assert list(spans(as_iob2(written(entities, scheme)))) == expected


def allowed(classes: tuple[int, ...]) -> bool:
    """Whether every I- stands behind its B- or I-, for classes O, B, I, B, I."""
    return all(c in (0, 1, 3) or b in (c - 1, c) for b, c in zip((0, *classes), classes, strict=False))


@pytest.mark.parametrize("seed", range(20))
def test_the_likeliest_tags_are_the_best_of_all_that_are_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances_WC = np.log(rng.dirichlet(np.full(5, 0.3), size=5))
    if seed % 2:
        chances_WC[2] = [0, -np.inf, -np.inf, -np.inf, -np.inf]
    every = [classes for classes in product(range(5), repeat=5) if allowed(classes)]
    totals = [chances_WC[range(5), classes].sum() for classes in every]
    assert tuple(likeliest(chances_WC)) == every[int(np.argmax(totals))]


def test_what_cannot_stand_is_mended_by_what_is_likeliest_and_nothing_else_is_touched() -> None:
    assert classes_of(("a", "b")) == ("O", "B-a", "I-a", "B-b", "I-b")
    sure = np.log(np.array([[0.1, 0.2, 0.6, 0.05, 0.05], [0.05, 0.05, 0.8, 0.05, 0.05]]))
    assert likeliest(sure).tolist() == [1, 2]  # alone, both would be I-a
    outside = np.log(np.array([[0.9, 0.04, 0.03, 0.02, 0.01], [0.3, 0.1, 0.4, 0.1, 0.1]]))
    assert likeliest(outside).tolist() == [0, 0]
