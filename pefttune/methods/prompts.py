"""Learned vectors before every text: prompt tuning (arXiv:2104.08691) and p-tuning (arXiv:2103.10385).

Each vector is that of a virtual token, an id beyond the base's vocabulary, with which the session begins every text.
What batches tokens, shares what texts begin with, or goes on from a cache needs to know nothing of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.p_tuning import PromptEncoder
from torch import Tensor, nn

from pefttune.errors import BaseError
from pefttune.methods import placed
from pefttune.methods.learned_rows import LearnedEmbedding
from pefttune.methods.places import embedding_path
from pefttune.methods.protocol import Adapter
from pefttune.methods.settings import settings_of
from pefttune.recipe import adapters as sections

KEY = "prompt_embeddings"


class VirtualTokens(Adapter):
    """An adapter that begins every text with tokens of its own, frozen until `train(True)`; its weights are float32
    masters."""

    mixes = True
    first_layer = 0
    file_prefix = "base_model."  # PEFT puts no tuner around the base, as it does for other methods

    def __init__(self, model: Any, config: sections.VirtualTokens) -> None:
        self._model, self._path, self._settings = model, embedding_path(model), settings_of(config)
        self._table = model.get_submodule(self._path)
        beyond, n = len(self._table.weight), config.num_virtual_tokens
        self.virtual_ids = tuple(range(beyond, beyond + n))
        self._ids_K = torch.tensor(self.virtual_ids, device=self._table.weight.device)

    def train(self, mode: bool) -> None:
        """Let its parameters learn, or not."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)

    def detach(self) -> None:
        """Nothing of it is on the base while it does not act."""

    def _embed(self, vectors_KD: Callable[[], Tensor] | None, rows: slice) -> LearnedEmbedding:
        """Let its tokens be embedded as these vectors, on these rows of the batch."""
        embedding = LearnedEmbedding(self._model.get_submodule(self._path), self._ids_K, vectors_KD, rows)
        placed.put(self._model, self._path, embedding)
        return embedding

    def _of_base(self) -> dict[str, Any]:
        """What PEFT's configuration of each such method says of the base."""
        config = self._model.config.get_text_config()
        return {
            "task_type": "SEQ_2_SEQ_LM" if self._model.config.is_encoder_decoder else "CAUSAL_LM",
            "num_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
        }


class PromptTuned(VirtualTokens):
    """Virtual tokens whose vectors are what is learned."""

    def __init__(self, model: Any, config: sections.PromptTuning, tokenizer: Any = None) -> None:
        """On a model where no adapter acts. Raises BaseError when the text to begin with has no tokens."""
        super().__init__(model, config)
        self._vectors_KD = nn.Parameter(self._first_vectors(config, tokenizer), requires_grad=False)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The vectors."""
        return {KEY: self._vectors_KD}

    @torch.no_grad()
    def _first_vectors(self, config: sections.PromptTuning, tokenizer: Any) -> Tensor:
        """Those of the text's tokens, again and again, or of words drawn from the vocabulary; or no words at all."""
        n, table = config.num_virtual_tokens, self._table
        ids_K = torch.randint(len(table.weight), (n,))
        if config.prompt_tuning_init == "text":
            # A copy: others use the base's own meanwhile, which keeps a call's settings (`tasks.tokenizing`).
            ids = copy.deepcopy(tokenizer)(config.prompt_tuning_init_text, add_special_tokens=False)["input_ids"]
            if not ids:
                raise BaseError("adapter.prompt_tuning_init_text: the base's tokenizer makes no token of it")
            ids_K = torch.tensor((ids * n)[:n])
        vectors_KD: Tensor = table(ids_K.to(self._ids_K.device)).float()
        return torch.randn_like(vectors_KD) if config.prompt_tuning_init == "random" else vectors_KD

    def activate(self, rows: slice = slice(None)) -> None:
        """Act in the model's forward on these rows of the batch, besides those that act already."""
        self._embed(lambda: self._vectors_KD, rows)

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration."""
        config: dict[str, Any] = self._settings(**self._of_base(), token_dim=self._vectors_KD.shape[1]).to_dict()
        return config


class PTuned(VirtualTokens):
    """Virtual tokens whose vectors a small network makes of others; both are learned. Only what it makes is saved, and
    read again as a tuned prompt."""

    def __init__(self, model: Any, config: sections.PTuning) -> None:
        """On a model where no adapter acts."""
        super().__init__(model, config)
        width = self._table(torch.zeros_like(self._ids_K[:1])).shape[1]
        of_base = {**self._of_base(), "token_dim": width}
        self._config = self._settings(**of_base, encoder_hidden_size=config.encoder_hidden_size or width)
        self._encoder = PromptEncoder(self._config).to(self._ids_K.device).requires_grad_(False)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those of the network, with what it reads."""
        return {f"prompt_encoder.{name}": weight for name, weight in self._encoder.named_parameters()}

    def _vectors_KD(self) -> Tensor:
        vectors_KD: Tensor = self._encoder(self._ids_K - self._ids_K[0])
        return vectors_KD

    def activate(self, rows: slice = slice(None)) -> None:
        """Act in the model's forward on these rows of the batch, besides those that act already."""
        self._embed(self._vectors_KD, rows)

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """What the network makes of its vectors."""
        return {KEY: self._vectors_KD()}

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration."""
        config: dict[str, Any] = self._config.to_dict()
        return config
