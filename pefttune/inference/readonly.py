"""Examples whose answers a base can write, though their adapter reads more tokens than that."""

from __future__ import annotations

from typing import Any

from pefttune import tasks
from pefttune.data import Row
from pefttune.errors import DataError


class ReadOnlyEncoder:
    """An encoder of a task whose answers must not hold these `ids`: its base has no output for them."""

    def __init__(self, plain: tasks.Encoder, ids: frozenset[int], tokenizer: Any) -> None:
        self._plain, self.ids, self._tokenizer = plain, ids, tokenizer

    def __call__(self, row: Row) -> tasks.Encoded:
        """The examples of a row. Raises DataError for an answer that cannot be written."""
        encoded = self._plain(row)
        answered = {token for example in encoded for answer in example.answers for token in answer}
        answered |= {int(token) for example in encoded for _, token in example.marks}
        if lacking := sorted(self.ids & answered):
            token = self._tokenizer.convert_ids_to_tokens(lacking[0])
            raise DataError(
                f"{row.origin}: the answer holds {token!r}, a new token that this base can read but not write, for its "
                "output layer is not tied to its table of tokens. Leave it out of answers and labels, or take a base "
                "where the two are tied"
            )
        return encoded

    def render(self) -> str:
        """The prompt in words."""
        return self._plain.render()
