"""Vectors of a few tokens, learned anew, while the table stays as it is. Where the output layer is tied to the table,
it has them, too. Tokens that the vocabulary lacked may be among them, whose ids may lie beyond the table.

A new token begins as the mean of the vectors of the pieces that it was read as before, as is common: a mean of vectors
is never far likelier than each of them, as random ones may be (nlp.stanford.edu/~johnhew/vocab-expansion.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from pefttune.errors import BaseError
from pefttune.methods import placed
from pefttune.methods.learned_rows import Around, LearnedEmbedding
from pefttune.methods.places import FILE_PREFIX, embedding_path, path_in_class, path_of
from pefttune.methods.protocol import Adapter
from pefttune.methods.settings import settings_of
from pefttune.recipe import adapters as sections


class TrainableTokens(Adapter):
    """Vectors of some tokens on a model, frozen until `train(True)`; they are float32 masters."""

    mixes = False  # whoever scores rows of several asks the output layer of the base
    first_layer = 0

    def __init__(
        self, model: Any, config: sections.TrainableTokens, tokenizer: Any, pieces: Mapping[str, Sequence[int]]
    ) -> None:
        """On a model where no adapter acts. `tokenizer` knows all of its tokens, and `pieces` are what the base's makes
        of those that are new. Raises BaseError for tokens that the base has no vectors for."""
        if model.config.is_encoder_decoder:
            raise BaseError(
                "adapter.method: trainable_tokens works with decoders and encoders, and this base is an "
                "encoder-decoder; prompt_tuning, p_tuning and lora work with it"
            )
        self._model, self._path, self._section = model, embedding_path(model), config
        table, output = model.get_submodule(self._path), model.get_output_embeddings()
        vocabulary = tokenizer.get_vocab()
        self._ids = [vocabulary[token] for token in config.tokens]
        self._ids_K = torch.tensor(self._ids, device=table.weight.device)
        begun = [
            _first_vector(table.weight, token, pieces.get(token, (own,)))
            for token, own in zip(config.tokens, self._ids, strict=True)
        ]
        self._vectors_KD = nn.Parameter(torch.stack(begun), requires_grad=False)
        tied = output is not None and output.weight.data_ptr() == table.weight.data_ptr()
        self._output_path = path_of(model, output) if tied else None
        if output is not None and not tied:
            # A spare row of the output layer was trained for no token, and stays as it is.
            rows, both = len(output.weight), zip(config.tokens, self._ids, strict=True)
            self.read_only_ids = frozenset(own for token, own in both if token in pieces or own >= rows)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The vectors."""
        return {f"{FILE_PREFIX}{path_in_class(self._model)}{self._path}.trainable_tokens_delta": self._vectors_KD}

    def train(self, mode: bool) -> None:
        """Let the vectors learn, or not."""
        self._vectors_KD.requires_grad_(mode)

    def activate(self, rows: slice = slice(None)) -> None:
        """Act on all rows; of a batch that others share it cannot have a part."""
        assert rows == slice(None)
        table = self._model.get_submodule(self._path)
        scale = getattr(table, "embed_scale", 1.0)  # some tables scale what is looked up
        placed.put(self._model, self._path, LearnedEmbedding(table, self._ids_K, lambda: self._vectors_KD * scale))
        if self._output_path is not None:
            output = self._model.get_submodule(self._output_path)
            placed.put(self._model, self._output_path, LearnedOutputs(output, self._ids_K, self._vectors_KD))

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration."""
        config: dict[str, Any] = settings_of(self._section)(
            token_indices=self._ids, target_modules=[self._path.rpartition(".")[2]]
        ).to_dict()
        return config | {"task_type": "CAUSAL_LM"}

    def detach(self) -> None:
        """Nothing of it is on the base while it does not act."""


class LearnedOutputs(Around):
    """The output layer, some rows of which are an adapter's own; these may lie behind its last."""

    def __init__(self, base_layer: nn.Linear, ids_K: Tensor, vectors_KD: nn.Parameter) -> None:
        super().__init__(base_layer)
        self._learned = (ids_K, vectors_KD)  # in a tuple: no part of the layer
        self._beyond = max(0, int(ids_K.max()) + 1 - len(base_layer.weight))

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, D), and of ids behind V up to the last that is learned."""
        ids_K, vectors_KD = self._learned
        logits: Tensor = self.base_layer(hidden)
        bias = self.base_layer.bias
        if self._beyond:
            logits = pad(logits, (0, self._beyond), value=float("-inf"))  # an id that nobody has is never written
            bias = None if bias is None else pad(bias, (0, self._beyond))
        bias = None if bias is None else bias[ids_K]
        return logits.index_copy(-1, ids_K, linear(hidden, vectors_KD.to(hidden.dtype), bias))


def _first_vector(table_VD: Tensor, token: str, pieces: Sequence[int]) -> Tensor:
    """The mean (D,) of the vectors of these ids, in float32. Raises BaseError for ids that lie beyond the table."""
    if max(pieces) >= len(table_VD):
        raise BaseError(
            f"adapter.tokens: {token!r} is known to the base's tokenizer, but the base has no vector for it; name "
            "another token"
        )
    return table_VD[list(pieces)].float().mean(0)
