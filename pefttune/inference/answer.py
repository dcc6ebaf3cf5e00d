"""An answer as it grows, token by token, up to its end, a stop text or its greatest length."""

from __future__ import annotations

from typing import Any

from pefttune.tasks import Generation, Writing

BROKEN = "\ufffd"  # what a decoder gives for bytes that are no character yet


class Answer:
    """An answer as it grows."""

    def __init__(self, tokenizer: Any, generation: Generation, ends: frozenset[int]) -> None:
        self._tokenizer, self._generation, self._ends = tokenizer, generation, ends
        self._tokens: list[int] = []
        self._log_likelihood = 0.0
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether nothing is to be added any more."""
        return self._ended or len(self._tokens) >= self._generation.max_new_tokens

    @property
    def may_end(self) -> bool:
        """Whether it is long enough."""
        return len(self._tokens) >= self._generation.min_new_tokens

    def add(self, token: int, log_likelihood: float) -> None:
        """The next token, which may end it."""
        self._tokens.append(token)
        self._log_likelihood += log_likelihood
        self._ended = token in self._ends or self._stop() is not None

    def text(self) -> str:
        """What is written so far that no later token can change: whole characters, and nothing of a stop text."""
        whole = self._decoded()
        if (stop := self._stop()) is not None:
            return whole[:stop]
        if self.done:
            return whole
        begun = (n for stop in self._generation.stop for n in range(1, len(stop)) if whole.endswith(stop[:n]))
        return whole[: len(whole) - max(begun, default=0)]

    def writing(self) -> Writing:
        """The whole of it."""
        return Writing(self.text().strip(), self._log_likelihood / len(self._tokens), self._ended)

    def _decoded(self) -> str:
        kept = self._tokens[:-1] if self._tokens and self._tokens[-1] in self._ends else self._tokens
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.rstrip(BROKEN)

    def _stop(self) -> int | None:
        """Where the first stop text begins."""
        if not self._generation.stop:
            return None
        text = self._decoded()
        return min((at for stop in self._generation.stop if (at := text.find(stop)) >= 0), default=None)
