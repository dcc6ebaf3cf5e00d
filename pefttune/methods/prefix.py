"""Prefix tuning (arXiv:2101.00190): keys and values of virtual tokens, learned in every layer.

The tokens pass through the layers as others do, but what attention sees of them is replaced. Keys are learned as PEFT
has them, turned to their positions already (RoPE, arXiv:2104.09864): as the model turns them, they are turned back
before. Shapes: n virtual tokens, L layers, J key heads of width d, B rows of T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pefttune.errors import BaseError
from pefttune.methods import placed
from pefttune.methods.learned_rows import Around, LearnedEmbedding
from pefttune.methods.places import layer_of, linear_modules
from pefttune.methods.prompts import KEY, VirtualTokens
from pefttune.recipe import adapters as sections

PROJECTIONS = ("k_proj", "v_proj")
# Relative distance of keys from those that are learned, when they were turned back and forth: each step rounds. Another
# model than is thought here is as far off as 1.
TOLERANCE, TOLERANCE_OF_HALF = 1e-5, 0.03


class PrefixTuned(VirtualTokens):
    """One prefix on a decoder, frozen until `train(True)`; its keys and values are float32 masters."""

    def __init__(self, model: Any, config: sections.PrefixTuning) -> None:
        """On a model where no adapter acts. Raises BaseError when its attention is not of the usual kind."""
        super().__init__(model, config)
        try:
            self._projections = _projections(model)
            self._rotation = _rotation(model, config.num_virtual_tokens)
            keys_and_values = _of_words(model, config.num_virtual_tokens)
            self._shape = keys_and_values.shape
            self._weight = nn.Parameter(keys_and_values.flatten(1), requires_grad=False)
            usual = self._is_seen()
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            usual = False
        if not usual:
            raise BaseError(
                f"adapter.method: prefix_tuning does not work with {type(model).__name__}: it needs a decoder with "
                "k_proj and v_proj whose keys are nothing but rotated, such as Llama, Mistral, Qwen2 or SmolLM; "
                "prompt_tuning, p_tuning and lora do"
            )

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Keys and values of all layers."""
        return {KEY: self._weight}

    def activate(self, rows: slice = slice(None)) -> None:
        """Act in the model's forward on these rows of the batch, besides those that act already."""
        embedding = self._embed(None, rows)
        for name, projection in self._projections.items():
            layer = Prefixed(self._model.get_submodule(name), self, *projection, embedding)
            placed.put(self._model, name, layer)

    def states(self, layer: int, which: int) -> Tensor:
        """What `k_proj` (0) or `v_proj` (1) of a layer is to give for each virtual token: (n, J·d)."""
        states_nJd = self._weight.view(self._shape)[:, layer, which]
        if which == 0:
            states_nJd = _turned_back(states_nJd, *self._rotation)
        return states_nJd.flatten(1)

    @torch.no_grad()
    def _is_seen(self) -> bool:
        """Whether a cache that the model fills holds keys and values of the virtual tokens, drawn at random here."""
        kept, cache = self._weight.data, DynamicCache()
        drawn = torch.randn(self._shape, generator=torch.Generator().manual_seed(0)).to(kept.device)
        self._weight.data = drawn.flatten(1)
        self.activate()
        try:
            self._model(self._ids_K[None], past_key_values=cache, use_cache=True)
        finally:
            placed.put_back(self._model)
            self._weight.data = kept
        distance = float((_states(cache) - drawn).norm() / drawn.norm())
        return distance <= (TOLERANCE if self._model.dtype == torch.float32 else TOLERANCE_OF_HALF)

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration."""
        heads, width = self._shape[3:]
        of_base = {**self._of_base(), "num_attention_heads": heads}
        config: dict[str, Any] = self._settings(**of_base, token_dim=heads * width).to_dict()
        return config


class Prefixed(Around):
    """A projection to keys or values, what it gives for the virtual tokens being learned."""

    def __init__(
        self, base_layer: nn.Module, adapter: PrefixTuned, layer: int, which: int, embedding: LearnedEmbedding
    ) -> None:
        super().__init__(base_layer)
        # In a tuple: they are no part of the layer.
        self._of = (adapter, layer, which, embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Keys or values (B, T, J·d)."""
        adapter, layer, which, embedding = self._of
        states: Tensor = self.base_layer(x)
        b, t, k = embedding.places
        return states.index_put((b, t), adapter.states(layer, which).to(states.dtype)[k])


def _projections(model: Any) -> dict[str, tuple[int, int]]:
    """The number of the layer, and which of the two it is, by path. Raises ValueError where not every layer has
    both."""
    found = {
        name: (layer_of(name), PROJECTIONS.index(kind))
        for name in linear_modules(model)
        if (kind := name.rpartition(".")[2]) in PROJECTIONS
    }
    layers = range(model.config.get_text_config().num_hidden_layers)
    if sorted(found.values()) != [(layer, which) for layer in layers for which in (0, 1)]:
        raise ValueError("not every layer has keys and values of its own")
    return found


@torch.no_grad()
def _rotation(model: Any, n: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, d) by which the model turns keys at the first n positions."""
    positions = torch.arange(n, device=model.device)[None]
    cos, sin = model.base_model.rotary_emb(torch.zeros(1, device=model.device), positions)
    return cos[0], sin[0]


def _turned_back(keys_nJd: Tensor, cos_nd: Tensor, sin_nd: Tensor) -> Tensor:
    """Keys that the model turns into these."""
    cos, sin = cos_nd[:, None], sin_nd[:, None]
    low, high = keys_nJd.chunk(2, -1)
    across = torch.cat([-high, low], -1)
    return (keys_nJd * cos - across * sin) / (cos**2 + sin**2)


@torch.no_grad()
def _of_words(model: Any, n: int) -> Tensor:
    """Keys and values (n, L, 2, J, d) that the base has of n words drawn from its vocabulary; the paper finds those of
    words to learn best."""
    ids = torch.randint(len(model.get_input_embeddings().weight), (1, n)).to(model.device)
    cache = DynamicCache()
    model(ids, past_key_values=cache, use_cache=True)
    return _states(cache)


def _states(cache: DynamicCache) -> Tensor:
    """Keys and values (n, L, 2, J, d) of the one text in the cache."""
    states_L2Jnd = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])
    return states_L2Jnd.permute(3, 0, 1, 2, 4).float().contiguous()
