"""Every turn of the assistant is found in the template's rendering, and nothing that is said can change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pefttune.errors import BaseError, DataError
from pefttune.tasks.chat import ChatTemplate

TALK = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
    {"role": "assistant", "content": "Five."},
]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# As Qwen3's: the last turn shows an empty thought, which later is history and gone; a thought in a text is cut out.
THINKS = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m['content'].split('</think>')[-1] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def template_of(new_tokenizer: Any, tmp_path: Path) -> Any:
    def make(template: str | None) -> tuple[ChatTemplate, Any]:
        new_tokenizer(tmp_path, template)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        return ChatTemplate(tokenizer), tokenizer

    return make


def turns_of(template: ChatTemplate, messages: list[dict[str, str]]) -> list[Any]:
    messages = template.messages(messages)
    return template.turns([message["role"] for message in messages], template.said(messages))


def test_each_turn_stands_behind_all_that_was_said_before_it_and_ends(template_of: Any) -> None:
    template, tokenizer = template_of(CHATML)
    first, second = turns_of(template, TALK)
    for turn, count in ((first, 2), (second, 4)):
        prompt = tokenizer.apply_chat_template(TALK[:count], add_generation_prompt=True, return_dict=False)
        assert list(turn.prompt) == prompt
    assert [tokenizer.decode(turn.answer) for turn in (first, second)] == ["Four.<|end|>", "Five.<|end|>"]
    whole = tokenizer.apply_chat_template(TALK, return_dict=False)
    assert [*second.prompt, *second.answer, *tokenizer("\n")["input_ids"]] == whole
    assert template.end == tokenizer.eos_token_id


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("special", ["<pad>", "<|end|>", "<|user|>", "<|assistant|>"])
def test_no_turn_can_be_ended_from_within(template_of: Any, role: str, special: str) -> None:
    template, tokenizer = template_of(CHATML)
    forged = [{**m, "content": m["content"] + special} if m["role"] == role else m for m in TALK]

    def specials(messages: list[dict[str, str]]) -> list[int]:
        turn = turns_of(template, messages)[-1]
        return [token for token in (*turn.prompt, *turn.answer) if token in tokenizer.all_special_ids]

    assert specials(forged) == specials(TALK)
    template.check(forged, "row 1")  # it is still there, spelled out


def test_a_template_without_system_role_has_it_said_by_the_user(template_of: Any) -> None:
    template, tokenizer = template_of(NO_SYSTEM)
    first = turns_of(template, TALK)[0]
    assert tokenizer.decode(first.prompt) == "<|user|>Be terse.\n\nTwo and two?<|end|><|assistant|>"


def test_a_base_without_a_template_gets_a_plain_one(template_of: Any) -> None:
    template, tokenizer = template_of(None)
    first, second = turns_of(template, TALK)
    assert tokenizer.decode(first.prompt) == "### System:\nBe terse.\n\n### User:\nTwo and two?\n\n### Assistant:\n"
    assert tokenizer.decode(first.answer) == "Four.<|end|>"
    assert second.prompt[: len(first.prompt) + len(first.answer)] == (*first.prompt, *first.answer)


def test_what_a_template_writes_before_a_reply_is_part_of_it(template_of: Any) -> None:
    template, tokenizer = template_of(THINKS)
    first, second = turns_of(template, TALK)
    assert [tokenizer.decode(turn.answer) for turn in (first, second)] == [
        "<think></think>Four.<|end|>",
        "<think></think>Five.<|end|>",
    ]
    assert "think" not in tokenizer.decode(second.prompt)  # as the model will meet it


def test_a_text_that_the_template_changes_is_refused(template_of: Any) -> None:
    template, _ = template_of(THINKS)
    thinking = [*TALK[:2], {"role": "assistant", "content": "<think>2 + 2</think>Four."}]
    with pytest.raises(DataError, match=r"^chat\.jsonl:3: the base's chat template changes what is said"):
        template.check(thinking, "chat.jsonl:3")
    template.check(thinking[:2], "chat.jsonl:3")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("hello", "does not render a user's and an assistant's turn"),
        ("{{ raise_exception('no') }}", "does not render a user's and an assistant's turn"),
        (
            "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
            "ends an assistant's turn with no token of its own",
        ),
    ],
)
def test_a_template_that_cannot_serve_is_refused(template_of: Any, template: str, message: str) -> None:
    with pytest.raises(BaseError, match=message):
        template_of(template)


def test_a_reply_that_begins_in_two_ways_is_refused(template_of: Any) -> None:
    template, _ = template_of(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|system|>{% endif %}"
    )
    with pytest.raises(BaseError, match="begins an assistant's turn in two ways"):
        turns_of(template, TALK)
