"""What a head reads of a question and its passage, and what each mark stands for."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import models
from transformers import AutoTokenizer

from pefttune.data import Row
from pefttune.errors import BaseError, DataError
from pefttune.recipe import schema
from pefttune.recipe import tasks as sections
from pefttune.tasks.passage import UNKNOWN, PassageEncoder, Window

PASSAGE = "  Ada  Lovelace\n\nwrote 🤗🤗 notes\tin 1843 — café\u00a0ête, <|end|> [SEP].  "


@pytest.fixture(params=["encoder", "decoder"])
def causal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "decoder")


@pytest.fixture
def tokenizer(causal: bool, tiny: Path, tiny_encoder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny if causal else tiny_encoder)


def row(context: str, answer: str | None = None, question: str = "who?") -> Row:
    texts = [answer] if answer else []
    answers = {"text": texts, "answer_start": [context.index(text) for text in texts]}
    return Row({"question": question, "context": context, "answers": answers}, "row 1")


def labels(window: Window) -> list[tuple[int, int]]:
    return [(mark, label) for mark, (_, label) in enumerate(window.marks) if label != UNKNOWN]


def spans(window: Window, context: str) -> list[str]:
    return [context[start:end] for start, end in window.characters_M2.tolist()]


def answer_of(window: Window, context: str) -> str:
    """What the labelled mark says of the passage."""
    ((mark, more),) = labels(window)
    first, last = window.characters_M2[mark - 1], window.characters_M2[mark - 1 + more]
    return context[first[0] : last[1]] if mark else ""


def test_marks_stand_for_the_passages_tokens_that_are_not_blank(tokenizer: Any, causal: bool) -> None:
    (window,) = PassageEncoder(tokenizer, 512, 8, causal=causal)(row(PASSAGE))
    texts = spans(window, PASSAGE)
    assert all(text and text == text.strip() for text in texts)
    assert set("".join(texts)) == set(PASSAGE) - set(" \n\t\u00a0")
    assert len(window.marks) == 1 + len(texts)
    for (place, _), text in zip(window.marks[1:], texts, strict=True):
        token = tokenizer.convert_ids_to_tokens(window.prompt[place])
        if text.isascii():  # others are several bytes of a decoder, and unknown to the encoder
            assert token.removeprefix("##").lower() == text.lower()


def test_the_space_that_a_token_begins_with_is_no_part_of_an_answer(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    vocabulary = tokenizer.get_vocab()
    merged = models.BPE({**vocabulary, "ĠA": len(vocabulary)}, [("Ġ", "A")])
    tokenizer.backend_tokenizer.model = merged
    (window,) = PassageEncoder(tokenizer, 256, 8, causal=True)(row("by Ada", "Ada"))
    assert spans(window, "by Ada") == ["b", "y", "A", "d", "a"]
    assert answer_of(window, "by Ada") == "Ada"


def test_an_encoder_reads_the_pair_as_its_tokenizer_writes_it(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    question, passage = "who wrote notes?", "Ada  wrote\nnotes."
    (window,) = PassageEncoder(tokenizer, 256, 8, causal=False)(row(passage, "Ada", question))
    assert list(window.prompt) == tokenizer(question, passage)["input_ids"]
    assert window.marks[0][0] == 0
    assert answer_of(window, passage) == "Ada"


def test_a_decoders_marked_tokens_have_seen_question_and_passage(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    (window,) = PassageEncoder(tokenizer, 256, 8, causal=True)(row("Ada wrote.", "Ada", "who?"))
    assert tokenizer.decode(window.prompt) == "Ada wrote.\nwho?\nAda wrote."
    assert [place for place, _ in window.marks[:2]] == [15, 16]  # “no answer” is read before the first of them


def test_a_bidirectional_decoder_reads_the_passage_once_and_an_encoder_as_ever(tiny: Path, tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    encoder = PassageEncoder(tokenizer, 256, 8, causal=True, bidirectional=True)
    (window,) = encoder(row("Ada wrote.", "Ada", "who?"))
    assert tokenizer.decode(window.prompt) == "who?\nAda wrote."
    assert [place for place, _ in window.marks[:2]] == [4, 5]
    assert (window.sees_all, answer_of(window, "Ada wrote.")) == (True, "Ada")
    long = row("a" * 400)
    assert max(len(each.prompt) for each in encoder(long)) == 256
    assert len(encoder(long)) < len(PassageEncoder(tokenizer, 256, 8, causal=True)(long))
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    either = [PassageEncoder(tokenizer, 256, 8, causal=False, bidirectional=told)(row("Ada")) for told in (True, False)]
    assert either[0] == either[1]


def test_what_looks_like_a_special_token_is_text(tokenizer: Any, causal: bool) -> None:
    text = "<|end|> [SEP] <|assistant|> [CLS]"
    (window,) = PassageEncoder(tokenizer, 256, 8, causal=causal)(row(text, question=text))
    special = [token for token in window.prompt if token in tokenizer.all_special_ids]
    assert special == ([] if causal else [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id])


@pytest.mark.parametrize("answer", ["Ada", "1843", "🤗🤗", "Lovelace\n\nwrote", "café\u00a0ête", "[SEP]", "<|end|>"])
def test_the_answer_is_labelled_where_it_begins_with_how_far_it_goes(tokenizer: Any, causal: bool, answer: str) -> None:
    (window,) = PassageEncoder(tokenizer, 512, 8, causal=causal)(row(PASSAGE, answer))
    assert answer_of(window, PASSAGE) == answer


def test_half_a_token_is_labelled_as_the_whole(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    (window,) = PassageEncoder(tokenizer, 256, 8, causal=False)(row("a 🤗🤗 b", "🤗"))  # one unknown word
    assert answer_of(window, "a 🤗🤗 b") == "🤗🤗"


def test_without_an_answer_the_first_mark_is_labelled_and_without_answers_none(tokenizer: Any, causal: bool) -> None:
    encoder = PassageEncoder(tokenizer, 256, 8, causal=causal)
    (window,) = encoder(row("Ada wrote."))
    assert labels(window) == [(0, 0)]
    (window,) = encoder(Row({"question": "who?", "context": "Ada wrote."}, ""))
    assert labels(window) == []


def test_windows_hold_every_token_and_overlap_by_the_stride(tokenizer: Any, causal: bool) -> None:
    passage = " ".join(f"w{number:02}" for number in range(40))
    whole = spans(PassageEncoder(tokenizer, 512, 8, causal=causal)(row(passage))[0], passage)
    max_length = 96 if causal else 48
    windows = PassageEncoder(tokenizer, max_length, 8, causal=causal)(row(passage))
    assert len(windows) > 3
    assert all(len(window.prompt) <= max_length for window in windows)
    for window in windows:
        assert spans(window, passage) == whole[window.first : window.first + len(window.characters_M2)]
    ends = [window.first + len(window.characters_M2) for window in windows]
    assert ends[-1] == len(whole)
    overlaps = [end - window.first for end, window in zip(ends, windows[1:], strict=False)]
    assert all(4 <= overlap <= 8 for overlap in overlaps)  # blank tokens of a decoder count, but have no mark


def test_an_answer_across_a_border_is_whole_in_the_next_window_and_no_label_where_it_is_cut(tokenizer: Any) -> None:
    passage = "abcdefghijklmnopqrstuvwxyz" * 3  # one token a letter
    encoder = PassageEncoder(tokenizer, 40, 6, causal=False)
    sizes = [len(window.characters_M2) for window in encoder(row(passage))]
    border = sizes[0]
    answered = Row(
        {
            "question": "who?",
            "context": passage,
            "answers": {"text": [passage[border - 2 : border + 2]], "answer_start": [border - 2]},
        },
        "",
    )
    windows = encoder(answered)
    assert labels(windows[0]) == []
    assert answer_of(windows[1], passage) == passage[border - 2 : border + 2]
    assert [labels(window) for window in windows[2:]] == [[(0, 0)]] * (len(windows) - 2)


def test_only_a_question_that_fills_a_quarter_of_a_window_is_cut(tokenizer: Any, causal: bool) -> None:
    encoder = PassageEncoder(tokenizer, 64, 4, causal=causal)
    assert not any(window.truncated for window in encoder(row("a b " * 100, question="q " * 7)))
    windows = encoder(row("a b " * 20, question="q " * 200))
    assert all(window.truncated and len(window.prompt) <= 64 for window in windows)


def test_a_passage_without_any_token_has_only_the_first_mark(tiny_encoder: Path) -> None:
    encoder = PassageEncoder(AutoTokenizer.from_pretrained(tiny_encoder), 64, 4, causal=False)
    (window,) = encoder(row("\u200b\x00"))  # its tokenizer drops these
    assert len(window.marks) == 1


def test_an_overlap_that_leaves_nothing_new_is_refused(tokenizer: Any, causal: bool) -> None:
    with pytest.raises(DataError, match=r"task\.stride: in windows of data\.max_length = 128 tokens.*overlap of 100"):
        PassageEncoder(tokenizer, 128, 100, causal=causal)


def test_the_defaults_leave_room(tokenizer: Any, causal: bool) -> None:
    section = sections.QuestionAnswering(type="question-answering")
    max_length = schema.Data(source="x").max_length
    windows = PassageEncoder(tokenizer, max_length, section.stride, causal=causal)(row("a b c d " * 400))
    assert 1 < len(windows) < 40


def test_a_passage_of_many_windows_is_nothing_to_warn_of(
    tiny_encoder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder, model_max_length=64)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    PassageEncoder(tokenizer, 64, 4, causal=False)(row("a b " * 100))
    assert not caplog.records


def test_a_tokenizer_that_knows_no_places_is_refused() -> None:
    with pytest.raises(BaseError, match="a fast tokenizer of transformers does"):
        PassageEncoder(SimpleNamespace(is_fast=False), 128, 8, causal=False)


@pytest.mark.parametrize(
    ("answer", "told"), [("Ada", []), ("by", []), ("y Ada", []), ("da", ["da"]), ("y A", ["y A"]), (None, [])]
)
def test_answers_that_begin_or_end_inside_a_token_are_told(tiny: Path, answer: str | None, told: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    vocabulary = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.model = models.BPE({**vocabulary, "Ad": len(vocabulary)}, [("A", "d")])
    encoder = PassageEncoder(tokenizer, 256, 8, causal=True)
    assert encoder.misaligned(row("by Ada", answer)) == told
