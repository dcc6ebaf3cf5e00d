"""The loss is on the assistant's turns alone, every one of them with its end, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune import tasks
from pefttune.data import Row
from pefttune.data.columns import take_columns
from pefttune.data.faults import RowFault
from pefttune.errors import DataError
from pefttune.recipe import tasks as sections
from pefttune.tasks import Writing, Written

ASKED = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
]
THINKS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and loop.last %}!{% endif %}"
    "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def task_of(**section: Any) -> Any:
    return tasks.get(sections.TextGeneration(type="text-generation", **{"max_new_tokens": 20, **section}))


def row_of(messages: Any, reply: str | None = None) -> Row:
    return Row({"messages": messages} | ({} if reply is None else {"reply": reply}), "row 1")


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def learned(tokenizer: Any, encoded: Any) -> list[str]:
    """What is trained of each example, run by run."""
    told = []
    for example in encoded:
        tokens = [*example.prompt, *(example.answers[0] if example.answers else ())]
        targets = {position + 1: token for position, token in example.marks}
        targets |= dict(enumerate(example.answers[0], start=len(example.prompt)))
        assert all(tokens[position] == token for position, token in targets.items()), "a target is not the next token"
        text = "".join(
            tokenizer.decode([token]) if position in targets else "·" for position, token in enumerate(tokens)
        )
        told.append("|".join(part for part in text.split("·") if part))
    return told


def test_all_turns_of_the_assistant_are_learned_with_their_ends_and_nothing_else(tokenizer: Any) -> None:
    encoded = task_of().encoder(tokenizer, 256, causal=True)(row_of(ASKED, "Five."))
    assert learned(tokenizer, encoded) == ["Four.<|end|>|Five.<|end|>"]
    [example] = encoded
    whole = [*ASKED, {"role": "assistant", "content": "Five."}]
    assert [*example.prompt, *example.answers[0]] == tokenizer.apply_chat_template(whole, return_dict=False)


def test_where_the_template_rewrites_history_each_reply_is_an_example_of_its_own(
    new_tokenizer: Any, tmp_path: Path
) -> None:
    new_tokenizer(tmp_path, THINKS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encoded = task_of().encoder(tokenizer, 256, causal=True)(row_of(ASKED, "Five."))
    assert learned(tokenizer, encoded) == ["!Four.<|end|>", "!Five.<|end|>"]
    asked = task_of().encoder(tokenizer, 256, causal=True)(row_of(ASKED))
    assert asked[-1].prompt == encoded[-1].prompt


def test_what_is_asked_has_the_prompt_that_was_learned(tokenizer: Any) -> None:
    encoder = task_of(system="Be terse.").encoder(tokenizer, 256, causal=True)
    [asked], [known] = encoder(row_of(ASKED)), encoder(row_of(ASKED, "Five."))
    assert asked.prompt == known.prompt
    assert asked.answers == ()
    text = tokenizer.decode(asked.prompt)
    assert text.startswith("<|system|>Be terse.<|end|><|user|>Two and two?")
    own = encoder(row_of([{"role": "system", "content": "Rhyme."}, *ASKED]))
    assert tokenizer.decode(own[0].prompt).startswith("<|system|>Rhyme.<|end|><|user|>Two and two?")


def test_of_a_long_conversation_the_oldest_exchanges_go_first_then_the_end_of_the_question(tokenizer: Any) -> None:
    long = len(task_of().encoder(tokenizer, 256, causal=True)(row_of(ASKED))[0].prompt)
    short = len(task_of().encoder(tokenizer, 256, causal=True)(row_of(ASKED[2:]))[0].prompt)

    def prompt(room: int) -> tuple[str, bool]:
        [example] = task_of().encoder(tokenizer, room + 20, causal=True)(row_of(ASKED, "Five."))
        assert len(example) <= room + 20
        return tokenizer.decode(example.prompt), example.truncated

    assert prompt(long) == (
        "<|user|>Two and two?<|end|><|assistant|>Four.<|end|><|user|>And one?<|end|><|assistant|>",
        False,
    )
    assert prompt(long - 1) == ("<|user|>And one?<|end|><|assistant|>", True)
    assert prompt(short) == ("<|user|>And one?<|end|><|assistant|>", True)
    assert prompt(short - 2) == ("<|user|>And on<|end|><|assistant|>", True)


def test_a_reply_may_be_longer_than_what_is_written_as_far_as_there_is_room(tokenizer: Any) -> None:
    [example] = task_of(max_new_tokens=3).encoder(tokenizer, 40, causal=True)(row_of(said("x"), "abcdefgh"))
    assert (tokenizer.decode(example.answers[0]), example.truncated) == ("abcdefgh<|end|>", False)
    assert not example.answer_limit
    room = len(example.prompt) + 3
    [example] = task_of(max_new_tokens=3).encoder(tokenizer, room, causal=True)(row_of(said("x"), "abcdefgh"))
    assert (tokenizer.decode(example.answers[0]), example.truncated) == ("abc", False)
    assert example.answer_limit == "data.max_length"


@pytest.mark.parametrize("template", ["own", "without system"])
def test_a_system_message_that_leaves_no_room_is_told_and_never_cut(tokenizer: Any, template: str) -> None:
    if template == "without system":  # as Gemma's: it then stands before what the user says
        raising = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        tokenizer.chat_template = raising + tokenizer.chat_template
    encoder = task_of().encoder(tokenizer, 100, causal=True)
    asked = said("And one?")
    for length in range(40, 120):
        system = {"role": "system", "content": "s" * length}
        row = row_of([system, *asked], "Five.")
        try:
            [example] = encoder(row)
        except DataError as error:
            told = str(error)
            break
        assert len(example) <= 100
        assert "s" * length in tokenizer.decode(example.prompt)
        assert "A" in tokenizer.decode(example.prompt)
    assert told.startswith("row 1: the system message leaves no room for what the user says: the prompt takes ")
    assert "has room for 80 beside the answer's" in told
    with pytest.raises(DataError, match="leaves no room"):
        encoder(row_of([{"role": "system", "content": "s" * 500}, *asked], "Five."))


def test_a_text_is_one_turn_of_the_user_and_what_was_answered_is_asked_again() -> None:
    task = task_of()
    assert task.check({"messages": " Two and two? "}) == {"messages": said("Two and two?")}
    answered = [*ASKED, {"role": "assistant", "content": "Five."}]
    assert task.check({"messages": answered}) == task.check({"messages": ASKED}) == {"messages": ASKED}
    assert task.check({"messages": ASKED, "reply": " Five. "})["reply"] == "Five."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"messages": [{"role": "system", "content": "Be terse."}]}, "has no turn of the user"),
        ({"messages": said("x"), "reply": "no answer"}, "does not have '####'"),
        ({"messages": said("x"), "reply": 4}, "is int, not text"),
        ({"messages": said("x"), "reply": " "}, "is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RowFault, match=message):
        task_of(answer_after="####").check(values)


@pytest.mark.parametrize(
    "source",
    [
        {"messages": [*ASKED, {"role": "assistant", "content": "Five."}]},
        {"messages": ASKED, "reply": "Five."},
        {"conversations": [*ASKED, {"role": "assistant", "content": "Five."}]},
    ],
)
def test_the_columns_are_found_in_the_forms_that_data_sets_have(source: dict[str, Any]) -> None:
    assert take_columns(source, task_of().columns, {}) == {
        "messages": source.get("messages", source.get("conversations")),
        "reply": "Five.",
    }
    assert task_of().check(take_columns(source, task_of().columns, {})) == {"messages": ASKED, "reply": "Five."}


def test_a_conversation_that_nobody_answers_cannot_be_learned() -> None:
    with pytest.raises(RowFault, match="ends with the user's turn: there is no reply to it"):
        take_columns({"messages": ASKED}, task_of().columns, {})


def written(*texts: str) -> list[Written]:
    return [Written(text, ("",), 1.0, False) for text in texts]


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("So 2 + 2.\n#### 4", "It is #### 4", True),
        ("#### 1,234", "#### 1234", True),
        ("####  $18 ", "#### 18", True),
        ("#### 3 #### 4", "#### 4", True),
        ("#### 4 apples", "#### 4", False),
        ("4", "#### 4", False),
    ],
)
def test_exact_match_is_of_what_stands_after_the_marker(text: str, reference: str, right: bool) -> None:
    task = task_of(answer_after="####")
    metrics = task.metrics(written(text), [row_of(said("x"), reference)])
    assert metrics["exact_match"] == float(right)
    assert next(iter(task.shown)) == "exact_match"
    assert float(task.primary_of(task.tallies(written(text), [row_of(said("x"), reference)]).sum(0))) == float(right)


def test_without_a_marker_rouge_comes_first_and_the_whole_text_is_compared() -> None:
    task, rows = task_of(), [row_of(said("x"), "the  cat\nsat"), row_of(said("x"), "a dog")]
    metrics = task.metrics(written("the cat sat", "it rains"), rows)
    assert (metrics["rouge_l"], metrics["exact_match"]) == (0.5, 0.5)
    assert next(iter(task.shown)) == "rouge_l"
    assert float(task.primary_of(task.tallies(written("the cat sat", "it rains"), rows).sum(0))) == 0.5


def test_the_baseline_is_the_commonest_answer_or_the_question_again() -> None:
    train = [row_of(said("x"), reply) for reply in ("a #### 4", "b #### 1,000", "c #### 1000")]
    name, predictions = task_of(answer_after="####").baseline(train, [row_of(said("q"), "#### 4")] * 2)
    assert (name, [p.text for p in predictions]) == ("always '#### 1000'", ["#### 1000"] * 2)
    name, predictions = task_of().baseline(train, [row_of(ASKED, "r")])
    assert (name, [p.text for p in predictions]) == ("the user's words again", ["And one?"])


def test_a_prediction_knows_how_sure_the_model_was_and_what_it_read(tokenizer: Any) -> None:
    task, row = task_of(), row_of(ASKED)
    prediction = task.decode(row, task.encoder(tokenizer, 256, causal=True)(row), [Writing("Five.", -0.5, False)])
    assert (str(prediction), prediction.confidence, prediction.ended) == (
        "Five.",
        pytest.approx(0.6065, abs=1e-4),
        False,
    )
    assert "".join(piece.text for piece in prediction.pieces(row)) == "Two and two?\nFour.\nAnd one?"
