"""Vectors of a few tokens of the vocabulary, learned anew, while the table stays as it is. Where the output layer is
tied to the table, it has them, too."""

from __future__ import annotations

import re
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pefttune.errors import BaseError
from pefttune.methods import placed
from pefttune.methods.learned_rows import Around, LearnedEmbedding
from pefttune.methods.places import FILE_PREFIX, embedding_path, path_in_class, path_of
from pefttune.methods.protocol import Adapter
from pefttune.recipe import adapters as sections


class TrainableTokens(Adapter):
    """Vectors of some tokens on a model, frozen until `train(True)`; they are float32 masters."""

    mixes = False  # whoever scores rows of several asks the output layer of the base
    first_layer = 0

    def __init__(self, model: Any, config: sections.TrainableTokens, tokenizer: Any) -> None:
        """On a model where no adapter acts. Raises BaseError for tokens that the base does not have."""
        if model.config.is_encoder_decoder:
            raise BaseError(
                "adapter.method: trainable_tokens works with decoders and encoders, and this base is an "
                "encoder-decoder; prompt_tuning, p_tuning and lora work with it"
            )
        self._model, self._path = model, embedding_path(model)
        table, output = model.get_submodule(self._path), model.get_output_embeddings()
        self._ids = [_id_of(token, tokenizer, len(table.weight)) for token in config.tokens]
        self._ids_K = torch.tensor(self._ids, device=table.weight.device)
        self._vectors_KD = nn.Parameter(table.weight[self._ids_K].float(), requires_grad=False)
        tied = output is not None and output.weight.data_ptr() == table.weight.data_ptr()
        self._output_path = path_of(model, output) if tied else None

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
        config: dict[str, Any] = peft.TrainableTokensConfig(
            token_indices=self._ids, target_modules=[self._path.rpartition(".")[2]]
        ).to_dict()
        return config | {"task_type": "CAUSAL_LM"}

    def detach(self) -> None:
        """Nothing of it is on the base while it does not act."""


class LearnedOutputs(Around):
    """The output layer, some rows of which are an adapter's own."""

    def __init__(self, base_layer: nn.Linear, ids_K: Tensor, vectors_KD: nn.Parameter) -> None:
        super().__init__(base_layer)
        self._learned = (ids_K, vectors_KD)  # in a tuple: no part of the layer

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, D)."""
        ids_K, vectors_KD = self._learned
        logits: Tensor = self.base_layer(hidden)
        bias = None if self.base_layer.bias is None else self.base_layer.bias[ids_K]
        return logits.index_copy(-1, ids_K, linear(hidden, vectors_KD.to(hidden.dtype), bias))


def _id_of(token: str, tokenizer: Any, rows: int) -> int:
    """The token's row of the table. Raises BaseError."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    found = vocabulary.get(token, rows)
    if found < rows:
        return found
    reserved = [name for name in vocabulary if re.search("reserved|unused", name)]
    kept = f"; kept in reserve are {', '.join(reserved[:3])} and others" if reserved else ""
    raise BaseError(
        f"adapter.tokens: {token!r} is not in the base's vocabulary, and new tokens are not added to it; name "
        f"tokens that are there, spelled as there (with its mark for a space before a word){kept}"
    )
