"""Rows to tokens for text classification, the same way in training and at inference.

The chat template is rendered once with a placeholder and cut there; the text between is tokenized on its own and never
as special tokens, so a row that holds `<|im_end|>` cannot end its own turn, every prompt begins with the same tokens,
and cutting a long text cannot cut the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pefttune.data import Example, Row
from pefttune.errors import BaseError, DataError
from pefttune.tasks.protocol import Encoded
from pefttune.tasks.tokenizing import tokenized

PLACEHOLDER = "\u2402TEXT\u2403"  # survives templates that strip or escape
# Some templates write today's date (Llama 3, gpt-oss), so an adapter would meet another prompt on every day. The line
# break is eaten: transformers renders with trim_blocks.
ALWAYS_THE_SAME_DAY = "{% macro strftime_now(format) %}01 Jan 2025{% endmacro %}\n"


class LabelWordEncoder:
    """Asks the language model for the label's words. A `closed` answer ends with the end-of-turn token."""

    def __init__(
        self, tokenizer: Any, labels: Sequence[str], instruction: str, max_length: int, closed: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._labels = {label: index for index, label in enumerate(labels)}
        self._rendered, answer_prefix = _render(tokenizer, instruction)
        before, _, after = self._rendered.partition(PLACEHOLDER)
        # A chat template writes its own first token; without one the tokenizer's is due, once.
        first = () if tokenizer.chat_template else special_tokens_around(tokenizer)[0]
        self._before = (*first, *_tokens(tokenizer, before))
        self._after = _tokens(tokenizer, after)
        if tokenizer.eos_token_id is None:
            raise BaseError("the base's tokenizer has no end-of-sequence token, so an answer could not end")
        words = [_tokens(tokenizer, answer_prefix + label) for label in self._labels]
        # Where one answer begins another, only its end tells the two apart.
        end = (tokenizer.eos_token_id,) if closed or _one_begins_another(words) else ()
        self._answers = tuple((*word, *end) for word in words)
        if len(set(self._answers)) < len(self._answers):
            raise DataError("task.labels: two labels are the same tokens for this base; rename one")
        fixed = len(self._before) + len(self._after) + max(map(len, self._answers))
        self._room = _room(max_length, fixed)

    def __call__(self, row: Row) -> Encoded:
        """Prompt and every label's answer; only the text is cut, at its end."""
        text = text_tokens(self._tokenizer, row.values["text"])
        prompt = (*self._before, *text[: self._room], *self._after)
        return (Example(prompt, self._answers, _target(self._labels, row), row.origin, len(text) > self._room),)

    def render(self) -> str:
        """The prompt with `{text}` in place of the text."""
        return self._rendered.replace(PLACEHOLDER, "{text}")


class HeadEncoder:
    """The bare text, with the special tokens that the tokenizer puts around every text. The head reads the last token
    of a decoder, which alone has seen all of it, and the first of an encoder."""

    def __init__(
        self, tokenizer: Any, targets: Callable[[Row], Sequence[float]], max_length: int, *, causal: bool
    ) -> None:
        """`targets` are what the head should say of a row: one class, or a number for each of its outputs."""
        self._tokenizer, self._causal, self._targets = tokenizer, causal, targets
        self._before, self._after = special_tokens_around(tokenizer)
        self._room = _room(max_length, len(self._before) + len(self._after))

    def __call__(self, row: Row) -> Encoded:
        """The text, cut at its end."""
        text = text_tokens(self._tokenizer, row.values["text"])
        prompt = (*self._before, *text[: self._room], *self._after)
        read = len(prompt) - 1 if self._causal else 0
        marks = tuple((read, target) for target in self._targets(row))
        return (Example(prompt, (), None, row.origin, len(text) > self._room, marks),)

    def render(self) -> str:
        """Nothing: the text is read as it is."""
        return ""


def _render(tokenizer: Any, instruction: str) -> tuple[str, str]:
    """The prompt with a placeholder for the text, and what stands before an answer (a space without a template)."""
    if not tokenizer.chat_template:
        return f"{instruction}\n\n{PLACEHOLDER}\n\nAnswer:", " "
    from jinja2 import TemplateError

    with_system = [{"role": "system", "content": instruction}, {"role": "user", "content": PLACEHOLDER}]
    without_system = [{"role": "user", "content": f"{instruction}\n\n{PLACEHOLDER}"}]
    template = ALWAYS_THE_SAME_DAY + tokenizer.get_chat_template()
    for messages in (with_system, without_system):  # Gemma's template, for one, raises on a system message
        try:
            rendered = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError:
            continue
        if PLACEHOLDER in rendered and instruction.strip() in rendered:  # many templates strip what they are given
            return rendered, ""
    raise BaseError("the base's chat template renders neither a system nor a user message; `task.approach: head` works")


def _one_begins_another(words: Sequence[tuple[int, ...]]) -> bool:
    return any(a != b and b[: len(a)] == a for a in words for b in words)


def _tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokens of template text, special tokens recognised, none added."""
    return tuple(tokenized(tokenizer, text, add_special_tokens=False)["input_ids"])


def text_tokens(tokenizer: Any, text: str, *, target: bool = False) -> tuple[int, ...]:
    """Tokens of a user's text: what looks like a special token in it is spelled out. A `target` is what an
    encoder-decoder writes, for which some tokenizers have a vocabulary of its own."""

    def split(part: str) -> tuple[int, ...]:
        given = {"text_target" if target else "text": part}
        tokens = tokenized(tokenizer, **given, add_special_tokens=False, split_special_tokens=True)
        return tuple(tokens["input_ids"])

    tokens = split(text)
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    if special.isdisjoint(tokens):
        return tokens
    # Vocabularies of T5's kind have special tokens among their words, too, and find them split or not.
    names = {token: tokenizer.convert_ids_to_tokens(token) for token in special.intersection(tokens)}
    spelled = {token: split(name[0]) + split(name[1:]) for token, name in names.items()}
    return tuple(each for token in tokens for each in spelled.get(token, (token,)))


def special_tokens_around(tokenizer: Any, *, target: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after every text by itself (BOS, [CLS] … [SEP], or nothing)."""
    given = {"text_target" if target else "text": "a"}
    bare = tokenized(tokenizer, **given, add_special_tokens=False)["input_ids"]
    full = tokenized(tokenizer, **given)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return tuple(full[:start]), tuple(full[start + len(bare) :])


def _room(max_length: int, fixed: int) -> int:
    if max_length <= fixed:
        raise DataError(
            f"data.max_length: {max_length} tokens leave no room for a text; prompt and answer alone take {fixed}"
        )
    return max_length - fixed


def _target(labels: dict[str, int], row: Row) -> int | None:
    label = row.values.get("label")
    return None if label is None else labels[label]
