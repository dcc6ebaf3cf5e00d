"""Rows to examples for an encoder-decoder: a text that its encoder reads, and the answer that its decoder writes.

Both are the tokenizer's own, as transformers' examples for these models have them: `tokenizer(prefix + text)` and
`tokenizer(text_target=answer)`, but that what looks like a special token in a text is spelled out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pefttune.data import Example, Row
from pefttune.errors import BaseError, DataError
from pefttune.tasks.answering import Conversation
from pefttune.tasks.chat import Message, Tokens
from pefttune.tasks.prompt import special_tokens_around, text_tokens
from pefttune.tasks.protocol import Encoded, Encoder, Task, Writes


class PairEncoder:
    """The encoder's text has at most `max_length` tokens, special ones included: of a conversation the oldest exchanges
    go first, then the end of the text. The answer is cut at `longest_reply`, by default at `max_length`.

    What the user says stands alone behind the prefix; where there are several turns, each is a line with its role, and
    only the last reply is learned.
    """

    def __init__(
        self,
        tokenizer: Any,
        conversation: Conversation,
        prefix: str | None,
        max_length: int,
        max_new_tokens: int,
        longest_reply: int | None = None,
    ) -> None:
        self._tokenizer, self._conversation, self._prefix = tokenizer, conversation, prefix or ""
        self._before, self._after = special_tokens_around(tokenizer)
        self._before_reply, self._after_reply = special_tokens_around(tokenizer, target=True)
        self._room = max_length - len(self._before) - len(self._after)
        self._longest_reply = longest_reply or max_length
        self._answer_limit = "task.max_new_tokens" if longest_reply else "data.max_length"
        fixed = len(self._tokens(self._prefix, [{"role": "user", "content": ""}]))
        if self._room <= fixed:
            taken = max_length - self._room + fixed
            raise DataError(
                f"data.max_length: {max_length} tokens leave no room for a text; what stands around it takes {taken}"
            )
        if max_new_tokens > max_length:
            raise DataError(
                f"data.max_length: {max_length} tokens are fewer than the {max_new_tokens} of task.max_new_tokens; "
                "raise the one or lower the other"
            )

    def __call__(self, row: Row) -> Encoded:
        """One example; without a known reply there is the encoder's text alone."""
        said, reply = self._conversation(row)
        prompt, truncated = self._read(said, row.origin)
        if reply is None:
            return (Example(prompt, (), None, row.origin, truncated),)
        answer = (*self._before_reply, *text_tokens(self._tokenizer, reply, target=True), *self._after_reply)
        kept = answer[: self._longest_reply]
        limit = "" if kept == answer else self._answer_limit
        return (Example(prompt, (kept,), 0, row.origin, truncated, answer_limit=limit),)

    def render(self) -> str:
        """What the encoder reads, with `{text}` in place of what the user says."""
        return _joined(self._prefix, [{"role": "user", "content": "{text}"}])

    def _read(self, said: Sequence[Message], origin: str) -> tuple[Tokens, bool]:
        """The encoder's tokens, and whether something had to go. Raises DataError where a system message leaves no room
        for anything else."""
        own = said[0]["role"] == "system"
        prefix, turns = (said[0]["content"], said[1:]) if own else (self._prefix, said)
        if own and len(self._tokens(prefix, [{"role": "user", "content": ""}])) >= self._room:
            raise DataError(
                f"{origin}: the system message leaves no room for what the user says; shorten it, or raise "
                "data.max_length"
            )
        kept = list(turns)
        tokens = self._tokens(prefix, kept)
        while len(tokens) > self._room and len(kept) > 2:
            del kept[:2]
            tokens = self._tokens(prefix, kept)
        truncated = len(tokens) > self._room or len(kept) < len(turns)
        return (*self._before, *tokens[: self._room], *self._after), truncated

    def _tokens(self, prefix: str, turns: Sequence[Message]) -> Tokens:
        return text_tokens(self._tokenizer, _joined(prefix, turns))


def encoder_of(task: Task, tokenizer: Any, max_length: int, *, causal: bool, encoder_decoder: bool) -> Encoder:
    """What turns rows of the task into examples for a base of that kind. Raises BaseError or DataError when base or
    tokenizer cannot serve."""
    if not encoder_decoder:
        return task.encoder(tokenizer, max_length, causal=causal)
    if isinstance(task, Writes):
        return task.pair_encoder(tokenizer, max_length)
    raise BaseError(
        f"{task.name} reads the states of a decoder or an encoder, and this base is an encoder-decoder, which does "
        "summarization and text-generation: take a base like Llama or BERT"
    )


def _joined(prefix: str, turns: Sequence[Message]) -> str:
    said = turns[0]["content"]
    if len(turns) > 1:
        said = "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)
    return f"{prefix} {said}" if prefix else said
