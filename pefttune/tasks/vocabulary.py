"""Tokens that an adapter adds to the vocabulary of its base: in a copy of the base's tokenizer, which is its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from pefttune.errors import BaseError
from pefttune.recipe.adapters import TrainableTokens
from pefttune.tasks.prompt import text_tokens
from pefttune.tasks.tokenizing import ONE_AT_A_TIME


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer that an adapter's texts are read and written by. `new` are the tokens that it has and the base's
    lacks, each with the pieces into which that one splits it."""

    tokenizer: Any
    new: Mapping[str, tuple[int, ...]]

    @property
    def new_ids(self) -> dict[str, int]:
        """The ids of the new tokens, in the order of the recipe."""
        return _ids(self.tokenizer, self.new)


class Vocabularies:
    """Those of adapters on a base with this tokenizer. Where the tokens are the same, it is the same vocabulary, as
    long as any adapter has it: each is a copy of the tokenizer, which takes megabytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: WeakValueDictionary[tuple[str, ...], Vocabulary] = WeakValueDictionary()

    def of(self, adapter: Any) -> Vocabulary:
        """That of an adapter with this section. Raises BaseError as `vocabulary_of`."""
        tokens = adapter.tokens if isinstance(adapter, TrainableTokens) else ()
        vocabulary = self._known.get(tokens) or vocabulary_of(adapter, self._tokenizer)
        self._known[tokens] = vocabulary
        return vocabulary


def vocabulary_of(adapter: Any, tokenizer: Any) -> Vocabulary:
    """That of an adapter with this section, on a base with this tokenizer, which is left as it is. Raises BaseError for
    new tokens that could not be told from others."""
    known = tokenizer.get_vocab()
    tokens = adapter.tokens if isinstance(adapter, TrainableTokens) else ()
    new = {token: text_tokens(tokenizer, token) for token in tokens if token not in known}
    if not new:
        return Vocabulary(tokenizer, {})
    from transformers import AddedToken

    with ONE_AT_A_TIME:
        own = copy.deepcopy(tokenizer)
    # As written: some tokenizers would put a blank's mark before it, and find it behind blanks only.
    own.add_tokens([AddedToken(token, normalized=False) for token in new])
    if taken := [token for token, number in _ids(own, new).items() if number in known.values()]:
        raise BaseError(f"adapter.tokens: {taken[0]!r} cannot be added to the base's vocabulary, whose ids have gaps")
    for token, pieces in new.items():
        if fault := _fault(token, pieces, own):
            raise BaseError(f"adapter.tokens: {token!r} cannot be added to the base's vocabulary: {fault}")
    return Vocabulary(own, new)


def _ids(tokenizer: Any, tokens: Iterable[str]) -> dict[str, int]:
    return {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}


def _fault(token: str, pieces: tuple[int, ...], own: Any) -> str | None:
    """What is wrong with a new token, if anything."""
    if token != token.strip():
        return "it begins or ends with a blank, which a tokenizer may strip; leave that out"
    if twins := [special for special in own.all_special_tokens if special.casefold() == token.casefold()]:
        return f"but for capitals it is the special token {twins[0]!r}; name that one, or another"
    found = own.convert_tokens_to_ids(token)
    around = (f"a {token} b", f"a{token}b", f"\n{token}")
    if not pieces or text_tokens(own, token) != (found,) or any(found not in text_tokens(own, one) for one in around):
        return "its tokenizer does not find it in a text; name another one, such as '<ent>'"
    return None
