"""Conversations to tokens, turn by turn, the same way in training and at inference.

The chat template is rendered with a placeholder for what is said and cut there. What is said is tokenized on its own
and never as special tokens, so a text that holds `<|im_end|>` cannot end its turn; and an answer begins in training
with the very token that it begins with when it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pefttune.errors import BaseError, DataError
from pefttune.tasks.prompt import ALWAYS_THE_SAME_DAY, PLACEHOLDER, special_tokens_around, text_tokens
from pefttune.tasks.tokenizing import tokenized

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""
Tokens = tuple[int, ...]

# For bases that have no chat template, as those that were only pretrained.
PLAIN = (
    "{% for message in messages %}{{ '### ' ~ message['role'] | capitalize ~ ':\n' ~ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the assistant: the tokens before it, and its own, up to the one that ends it."""

    prompt: Tokens
    answer: Tokens


class ChatTemplate:
    """The template of a tokenizer, or a plain one where it has none. Raises BaseError for one that cannot be used."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise BaseError("the base's tokenizer has no end-of-sequence token, so an answer could not end")
        self._tokenizer = tokenizer
        own = tokenizer.get_chat_template() if tokenizer.chat_template else None
        self._template = ALWAYS_THE_SAME_DAY + (own or PLAIN)
        # A chat template writes its own first token; without one the tokenizer's is due.
        self._first = () if own else special_tokens_around(tokenizer)[0]
        self._pieces = cache(self._rendered_pieces)
        self._takes_system = self._pieces(("system", "user"), True) is not None
        if self._pieces(("user",), True) is None or self._pieces(("user", "assistant"), False) is None:
            raise BaseError("the base's chat template does not render a user's and an assistant's turn as they stand")
        self.end = self._end(self._cut(("user", "assistant"), False)[-1])[-1]
        """The token that ends a turn of the assistant."""

    def messages(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The conversation in the roles that the template knows: Gemma's, for one, has no system message, which then
        stands before what the user says first."""
        roles_and_texts = [dict(message) for message in messages]
        if roles_and_texts[0]["role"] != "system" or self._takes_system:
            return roles_and_texts
        system, first, *others = roles_and_texts
        return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *others]

    def said(self, messages: Sequence[Message]) -> list[Tokens]:
        """The tokens of what each message says."""
        return [text_tokens(self._tokenizer, message["content"]) for message in messages]

    def prompt(self, roles: Sequence[str], said: Sequence[Tokens]) -> Tokens:
        """A conversation that ends with the user's turn, and the beginning of the assistant's."""
        return self._joined(self._cut(tuple(roles), True), said)

    def turns(self, roles: Sequence[str], said: Sequence[Tokens]) -> list[Turn]:
        """Every turn of the assistant, as it would be written: behind all that is said before it. Raises BaseError."""
        turns = []
        for i, role in enumerate(roles):
            if role != "assistant":
                continue
            before, whole = self._cut(tuple(roles[:i]), True), self._cut(tuple(roles[: i + 1]), False)
            opening = whole[i].removeprefix(before[i])
            if whole[:i] != before[:i] or len(opening) + len(before[i]) != len(whole[i]):
                raise BaseError("the base's chat template begins an assistant's turn in two ways; no turn can be found")
            answer = (*self._tokens(opening), *said[i], *self._end(whole[-1]))
            turns.append(Turn(self._joined(before, said[:i]), answer))
        return turns

    def check(self, messages: Sequence[Message], origin: str) -> None:
        """Raise DataError unless the template renders what is said as it stands: some cut reasoning out of it."""
        pieces = self._cut(tuple(message["role"] for message in messages), False)
        texts = [message["content"] for message in messages]
        expected = "".join(part for pair in zip(pieces, [*texts, ""], strict=True) for part in pair)
        if self._render(messages, False) != expected:
            raise DataError(
                f"{origin}: the base's chat template changes what is said (some take tags like <think> for their own), "
                "so it cannot be learned as it stands. Leave those parts out"
            )

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation as text."""
        return self._render(messages, True) or ""

    def _render(self, messages: Sequence[Message], generation_prompt: bool) -> str | None:
        from jinja2 import TemplateError

        try:
            rendered: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except TemplateError:
            return None
        return rendered

    def _rendered_pieces(self, roles: tuple[str, ...], generation_prompt: bool) -> list[str] | None:
        """The template's text around what is said; None where it does not render every message once."""
        rendered = self._render([{"role": role, "content": PLACEHOLDER} for role in roles], generation_prompt)
        pieces = (rendered or "").split(PLACEHOLDER)
        return pieces if len(pieces) == len(roles) + 1 else None

    def _cut(self, roles: tuple[str, ...], generation_prompt: bool) -> list[str]:
        pieces = self._pieces(roles, generation_prompt)
        if pieces is None:
            raise BaseError(f"the base's chat template does not render a conversation of {', '.join(roles)}")
        return pieces

    def _joined(self, pieces: Sequence[str], said: Sequence[Tokens]) -> Tokens:
        between = [token for piece, text in zip(pieces, said, strict=False) for token in (*self._tokens(piece), *text)]
        return (*self._first, *between, *self._tokens(pieces[-1]))

    def _tokens(self, piece: str) -> Tokens:
        """Tokens of the template's own text, special tokens recognised."""
        return tuple(tokenized(self._tokenizer, piece, add_special_tokens=False)["input_ids"])

    def _end(self, piece: str) -> Tokens:
        """What follows an assistant's text, up to the first special token: there its turn ends."""
        tokens = self._tokens(piece)
        added = self._tokenizer.added_tokens_decoder
        special = {*self._tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        for count, token in enumerate(tokens, start=1):
            if token in special:
                return tokens[:count]
        raise BaseError("the base's chat template ends an assistant's turn with no token of its own, so none could end")
