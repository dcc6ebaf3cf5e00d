"""Texts that are nearly the same: MinHash against every pair compared."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pefttune.doctor.near import NGRAM, WITNESSES, candidates, jaccard, normalized


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  Fine,  FILM!\n", "fine film"),
        ("it's—well…good", "it s well good"),
        ("Straße №5", "strasse №5".replace("№", " ").replace("  ", " ")),
        ("हिन्दी, में", "हिन्दी में"),  # vowel signs are no punctuation
        ("😀 :-)", ""),
    ],
)
def test_normalized(text: str, told: str) -> None:
    assert normalized(text) == told


def test_jaccard_is_that_of_the_ngrams() -> None:
    assert jaccard("abcdef", "abcdef") == 1
    assert jaccard("abcdef", "abcdeX") == 1 / 3  # abcde; bcdef, bcdeX
    assert jaccard("abc", "abc") == 1
    assert jaccard("abc", "abd") == 0


def written(count: int, seed: int = 0) -> list[str]:
    """Texts of random words, of very different length."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghiklmnoprstuvwäé😀", k=chance.randint(2, 9))) for _ in range(400)]
    return [" ".join(chance.choices(words, k=chance.randint(8, 60))) for _ in range(count)]


def edited(text: str, seed: int) -> str:
    """The text with one word changed."""
    chance, words = random.Random(seed), text.split()
    words[chance.randrange(len(words))] = "zz"
    return " ".join(words)


def test_no_pair_of_nine_tenths_is_missed() -> None:
    train = written(2500)  # more than one chunk
    test = [*(edited(text, i) for i, text in enumerate(train[::5])), *written(100, seed=1)]
    parts = np.array([0] * len(train) + [2] * len(test))
    offered = candidates([*train, *test], parts)
    true = {(i * 5, len(train) + i) for i in range(500) if jaccard(train[i * 5], test[i]) >= 0.9}
    assert len(true) > 150
    assert true <= set(offered)
    assert len(offered) < 2 * 500, "texts that have nothing in common were offered too"


def test_pairs_are_of_different_parts_only() -> None:
    [text] = written(1)
    parts = np.array([0, 0, 1, 1, 2])
    assert candidates([text] * 5, parts) == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 4), (3, 4)]
    assert candidates([text] * 5, np.zeros(5, np.int64)) == []
    assert candidates([], np.zeros(0, np.int64)) == []


def test_an_ngram_that_begins_in_one_text_and_ends_in_the_next_is_of_neither() -> None:
    """Texts side by side in a chunk have the signatures that they have alone."""
    from pefttune.doctor.near import _signatures

    texts = written(3)
    alone = np.concatenate([_signatures([text]) for text in texts])
    assert (_signatures(texts) == alone).all()
    assert min(map(len, texts)) > NGRAM


def test_boilerplate_does_not_make_every_pair() -> None:
    boilerplate = [f"{'please restart the router and wait for ten minutes ' * 5}{number % 10}" for number in range(800)]
    pairs = candidates(boilerplate, np.array([0] * 400 + [2] * 400))
    assert len({other for _, other in pairs}) == 400
    assert len(pairs) < 400 * 8 * WITNESSES  # at most so many for each band; every pair would be 160,000
