"""Rows to examples for tasks whose answer is written: a conversation up to the user's turn, and the reply to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pefttune.data import UNKNOWN, Example, Row
from pefttune.errors import DataError
from pefttune.tasks.chat import ChatTemplate, Message, Tokens
from pefttune.tasks.protocol import Encoded

Conversation = Callable[[Row], tuple[Sequence[Message], str | None]]
"""What is said up to a user's turn, and the right reply where it is known."""


class AnswerEncoder:
    """The prompt leaves room for an answer of `max_new_tokens` within `max_length`.

    Of a conversation that is too long the oldest exchanges go first, then the end of what the user says last. A reply
    is cut at `longest_reply`, by default where `max_length` ends. Without a known reply there is the prompt alone.
    """

    def __init__(
        self,
        tokenizer: Any,
        conversation: Conversation,
        system: str | None,
        max_length: int,
        max_new_tokens: int,
        longest_reply: int | None = None,
    ) -> None:
        self._template = ChatTemplate(tokenizer)
        self._conversation = conversation
        self._system = [{"role": "system", "content": system}] if system else []
        self._max_length, self._room = max_length, max_length - max_new_tokens
        self._longest_reply = longest_reply or max_length
        self._answer_limit = "task.max_new_tokens" if longest_reply else "data.max_length"
        fixed = len(self._prompt(self._asked([{"role": "user", "content": ""}]))[2])
        if self._room <= fixed:
            raise DataError(
                f"data.max_length: {max_length} tokens leave no room for a text; the prompt alone takes {fixed}, and "
                f"task.max_new_tokens keeps {max_new_tokens} for the answer"
            )

    def __call__(self, row: Row) -> Encoded:
        """One example, whose earlier replies are marks; or one for each reply where the template shows earlier ones in
        another way than the last, as Qwen3's."""
        said, reply = self._conversation(row)
        asked = self._asked(said)
        if reply is not None:
            answered = [*asked, {"role": "assistant", "content": reply}]
            self._template.check(self._template.messages(answered), row.origin)
        roles, tokens, prompt, truncated = self._fitting(asked, row.origin)
        if reply is None:
            return (Example(prompt, (), None, row.origin, truncated, marks=((len(prompt) - 1, UNKNOWN),)),)
        tokens = [*tokens, *self._template.said([{"role": "assistant", "content": reply}])]
        examples: list[Example] = []
        for turn in self._template.turns([*roles, "assistant"], tokens):
            before = examples.pop() if examples and _goes_on(examples[-1], turn.prompt) else None
            marks = (*before.marks, *_marks(before)) if before else ()
            examples.append(Example(turn.prompt, (turn.answer,), 0, row.origin, truncated, marks))
        last = examples.pop()
        answer = last.answers[0][: min(self._longest_reply, self._max_length - len(last.prompt))]
        whole = answer == last.answers[0]
        return (*examples, replace(last, answers=(answer,), answer_limit="" if whole else self._answer_limit))

    def render(self) -> str:
        """The prompt with `{text}` in place of what the user says."""
        return self._template.text(self._template.messages(self._asked([{"role": "user", "content": "{text}"}])))

    def _asked(self, messages: Sequence[Message]) -> list[Message]:
        return [*messages] if messages[0]["role"] == "system" else [*self._system, *messages]

    def _fitting(self, asked: list[Message], origin: str) -> tuple[list[str], list[Tokens], Tokens, bool]:
        """Roles, what each says, the whole prompt, and whether something had to go. Raises DataError where nothing
        would be left of what the user says."""
        oldest = 1 if asked[0]["role"] == "system" else 0
        kept = list(asked)
        roles, said, prompt = self._prompt(kept)
        while len(prompt) > self._room and len(kept) > oldest + 2:
            del kept[oldest : oldest + 2]
            roles, said, prompt = self._prompt(kept)
        if (excess := len(prompt) - self._room) > 0:
            fixed = len(self._prompt([*kept[:-1], {"role": "user", "content": ""}])[2])
            if fixed >= self._room:
                raise DataError(
                    f"{origin}: the system message leaves no room for what the user says: the prompt takes {fixed} "
                    f"tokens without that, and data.max_length has room for {self._room} beside the answer's. Shorten "
                    "the message, or raise data.max_length"
                )
            said[-1] = said[-1][: len(said[-1]) - excess]
            prompt = self._template.prompt(roles, said)
        return roles, said, prompt, excess > 0 or len(kept) < len(asked)

    def _prompt(self, asked: Sequence[Message]) -> tuple[list[str], list[Tokens], Tokens]:
        messages = self._template.messages(asked)
        roles, said = [message["role"] for message in messages], self._template.said(messages)
        return roles, said, self._template.prompt(roles, said)


def _goes_on(example: Example, prompt: Tokens) -> bool:
    """Whether the prompt begins with the example and its answer."""
    read = (*example.prompt, *example.answers[0])
    return prompt[: len(read)] == read


def _marks(example: Example) -> list[tuple[int, int]]:
    """The answer's tokens, each marked where it is predicted."""
    start = len(example.prompt) - 1
    return list(enumerate(example.answers[0], start=start))
