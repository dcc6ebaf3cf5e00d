"""Words to tokens: which token stands for a word, and windows of long sentences."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune.data import Row
from pefttune.errors import BaseError, DataError
from pefttune.tasks.words import UNKNOWN, WordEncoder, joined, split

HARD = ["John", "'s", "<|end|>", "[SEP]", "👨‍👩‍👧", "naïve", "हिन्दी", "New York", "東京", "#x", "𝒳", "\u00a0a", "..."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("John lives in Paris.", ["John", "lives", "in", "Paris", "."]),
        ("  Ada's\nmother, (née O) ", ["Ada", "'s", "mother", ",", "(", "née", "O", ")"]),
        ("see http://t.co/0x?y=1, @ada_l #Rome", ["see", "http://t.co/0x?y=1", ",", "@ada_l", "#Rome"]),
        ("the U.S. won 3.50 at x.org...", ["the", "U.S.", "won", "3.50", "at", "x.org", "..."]),
        ("AT&T Jean-Luc", ["AT&T", "Jean-Luc"]),
        ("हिन्दी 👨‍👩‍👧!", ["हिन्दी", "👨‍👩‍👧", "!"]),
        (" \n\t", []),
    ],
)
def test_a_text_is_parted_into_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split(text)] == words


def encoder_of(folder: Path, max_length: int = 512, stride: int = 8, *, causal: bool) -> tuple[WordEncoder, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return WordEncoder(tokenizer, ("a", "b"), max_length, stride, causal=causal), tokenizer


def row(words: list[str], tags: list[str] | None = None) -> Row:
    return Row({"tokens": words} if tags is None else {"tokens": words, "tags": tags}, "f.conll:1")


def test_a_decoder_reads_a_word_off_its_last_token_behind_the_whole_sentence(tiny: Path) -> None:
    encoder, tokenizer = encoder_of(tiny, causal=True)
    (window,) = encoder(row(HARD))
    text = " ".join(HARD)
    assert tokenizer.decode(window.prompt) == f"{text}\n{text}"
    assert window.words == tuple(range(len(HARD)))
    for word, (place, target) in zip(HARD, window.marks, strict=True):
        assert place > len(window.prompt) // 2
        assert tokenizer.decode(window.prompt[: place + 1]).endswith(word)
        assert target == UNKNOWN


def test_an_encoder_reads_a_word_off_its_first_token(tiny_encoder: Path) -> None:
    encoder, tokenizer = encoder_of(tiny_encoder, causal=False)
    (window,) = encoder(row(HARD))
    each = [tokenizer(word, add_special_tokens=False, split_special_tokens=True)["input_ids"] for word in HARD]
    assert window.prompt == (tokenizer.cls_token_id, *(i for ids in each for i in ids), tokenizer.sep_token_id)
    places = [1 + sum(map(len, each[:word])) for word in range(len(HARD))]
    assert [place for place, _ in window.marks] == places


def test_a_bidirectional_decoder_reads_as_an_encoder_does_and_an_encoder_as_ever(
    tiny: Path, tiny_encoder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    (window,) = WordEncoder(tokenizer, ("a", "b"), 128, 8, causal=True, bidirectional=True)(row(["Ada", "is", "up"]))
    assert tokenizer.decode(window.prompt) == "Ada is up"
    assert [place for place, _ in window.marks] == [0, 4, 7]  # a token each character
    assert window.sees_all
    encoder, tokenizer = encoder_of(tiny_encoder, causal=False)
    told = WordEncoder(tokenizer, ("a", "b"), 512, 8, causal=False, bidirectional=True)
    assert told(row(HARD)) == encoder(row(HARD))


@pytest.mark.parametrize("causal", [True, False])
def test_what_looks_like_a_special_token_is_none(tiny: Path, tiny_encoder: Path, causal: bool) -> None:
    encoder, tokenizer = encoder_of(tiny if causal else tiny_encoder, causal=causal)
    (window,) = encoder(row(list(tokenizer.all_special_tokens)))
    inside = window.prompt if causal else window.prompt[1:-1]
    assert not set(inside) & set(tokenizer.all_special_ids)


def test_tags_are_the_classes_of_the_marks(tiny_encoder: Path) -> None:
    encoder, _ = encoder_of(tiny_encoder, causal=False)
    (window,) = encoder(row(["x", "\u200b", "y", "z"], ["B-b", "I-b", "I-b", "O"]))
    assert window.words == (0, 2, 3)  # in the other nothing is to be read
    assert [target for _, target in window.marks] == [3, 4, 0]


def test_a_sentence_without_a_token_is_a_window_without_a_word(tiny_encoder: Path) -> None:
    encoder, _ = encoder_of(tiny_encoder, causal=False)
    (window,) = encoder(row(["\u200b"], ["O"]))
    assert (window.words, [target for _, target in window.marks]) == ((), [UNKNOWN])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("max_length", "stride"), [(64, 0), (64, 7), (60, 20), (49, 12), (512, 8)])
def test_each_word_is_read_once_where_it_has_most_around_it(
    tiny: Path, tiny_encoder: Path, causal: bool, max_length: int, stride: int
) -> None:
    encoder, tokenizer = encoder_of(tiny if causal else tiny_encoder, max_length, stride, causal=causal)
    words = [f"{chr(97 + number)}{number}" for number in range(26)]
    windows = encoder(row(words))
    assert (len(windows) == 1) == (max_length == 512)
    # Tokens are characters here, and words are read off their last one or their first one.
    text = (" " if causal else "").join(words)
    places = [text.index(word) + (len(word) - 1 if causal else 0) for word in words]
    if causal:
        parts = [tokenizer.decode(window.prompt).split("\n")[1] for window in windows]
    else:
        tokens = [tokenizer.convert_ids_to_tokens(window.prompt[1:-1]) for window in windows]
        parts = ["".join(token.removeprefix("##") for token in each) for each in tokens]
    windows_in_text = [range(text.index(part), text.index(part) + len(part)) for part in parts]
    assert all(len(window.prompt) <= max_length for window in windows)
    assert all(before.stop - after.start >= stride for before, after in pairwise(windows_in_text))

    def around(place: int, window: range) -> float:
        """How many tokens of the window are on the side of this one that has fewer, if the text goes on there."""
        if place not in window:
            return -1
        before = place - window.start if window.start else math.inf
        behind = window.stop - 1 - place if window.stop < len(text) else math.inf
        return min(before, behind)

    assert [word for window in windows for word in window.words] == list(range(26))
    for window, part in zip(windows, windows_in_text, strict=True):
        lead = len(window.prompt) - len(part) - (0 if causal else 1)
        for word, (mark, _) in zip(window.words, window.marks, strict=True):
            assert mark == lead + places[word] - part.start
            assert around(places[word], part) == max(around(places[word], other) for other in windows_in_text)


def test_an_overlap_without_room_for_anything_new_is_told(tiny: Path) -> None:
    with pytest.raises(DataError, match=r"^task\.stride: in windows of data\.max_length = 40 tokens, an overlap of 30"):
        encoder_of(tiny, 40, 30, causal=True)


def test_a_tokenizer_that_cannot_tell_places_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(BaseError, match=r"a fast tokenizer of transformers does$"):
        WordEncoder(Slow(), ("a",), 64, 8, causal=True)


def test_words_are_joined_with_their_places() -> None:
    text, places = joined(["New York", "is", "🤗"])
    assert text == "New York is 🤗"
    assert [text[start:end] for start, end in places] == ["New York", "is", "🤗"]


def test_entities_with_a_word_that_has_no_token_are_told(tiny_encoder: Path) -> None:
    encoder, _ = encoder_of(tiny_encoder, causal=False)
    words = ["Ada", "\u200b", "of", "x"]  # BERT's tokenizer takes the second one out
    assert encoder.misaligned(row(words, ["B-a", "I-a", "O", "B-b"])) == ["Ada \u200b"]
    assert encoder.misaligned(row(words, ["B-a", "O", "O", "B-b"])) == []
