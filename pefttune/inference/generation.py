"""Writing answers, token by token, many prompts at once.

Prompts are read in ragged batches, so that none is padded and what several begin with is read once; their keys and
values then stand side by side, right-aligned, and an answer that has ended makes room. Shapes: B answers that are being
written, W positions, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from pefttune.batching import RUNS_NOT, Batch, agrees, evaluation_batches, inputs_of, ragged
from pefttune.data import UNKNOWN, Example
from pefttune.inference.answer import Answer
from pefttune.inference.sampling import Sampling, chooser
from pefttune.tasks import Generation

# Keys and values of all answers that are written together. With more answers a step costs less for each.
CACHE_MIB, CACHE_MIB_ON_GPU = 256, 4096

Tokens = Sequence[int]


def groups(prompts: Sequence[Tokens], model: Any, generation: Generation) -> list[list[int]]:
    """Which prompts are answered together: of like length, longest first, as many as the cache may hold."""
    most = (CACHE_MIB_ON_GPU if model.device.type == "cuda" else CACHE_MIB) * 2**20 // _bytes_per_position(model)
    result: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        longest = len(prompts[result[-1][0]]) + generation.max_new_tokens if result else 0
        if not result or (len(result[-1]) + 1) * longest * generation.num_beams > most:
            result.append([])
        result[-1].append(i)
    return result


def _bytes_per_position(model: Any) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size: int = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    return size


@torch.no_grad()
def write(
    model: Any,
    prompts: Sequence[Tokens],
    answers: Sequence[Answer],
    ends: frozenset[int],
    max_tokens: int,
    sampling: Sampling | None = None,
    never: frozenset[int] = frozenset(),
) -> Iterator[None]:
    """Write an answer to each prompt; with every step, each that is not done gets a token, but `never` one of those.

    Prompts are read in batches of at most `max_tokens`, by a model that `can_write`.
    """
    state, growing = State(model, prompts, max_tokens), list(answers)
    choose = chooser(sampling, ends, model.device, never)
    while True:
        tokens_B, log_likelihoods_B = choose(state.logits_BV.float(), growing)
        for answer, token, log_likelihood in zip(growing, tokens_B.tolist(), log_likelihoods_B.tolist(), strict=True):
            answer.add(token, log_likelihood)
        yield
        going_on = [i for i, answer in enumerate(growing) if not answer.done]
        if not going_on:
            return
        if len(going_on) < len(growing):
            growing = [growing[i] for i in going_on]
            state.keep(going_on)
            tokens_B = tokens_B[going_on]
        state.feed(tokens_B)


@torch.no_grad()
def can_write(model: Any) -> bool:
    """Whether a model that reads ragged batches goes on from them as it does from whole texts. Found out by trying:
    some keep other things than keys and values, or share those of one layer with another."""
    prompts = [tuple(range(5, 26)), tuple(range(5, 15)), tuple(range(40, 45))]
    following = torch.tensor([50, 51, 52], device=model.device)
    texts = [[*prompt, int(token)] for prompt, token in zip(prompts, following, strict=True)]
    try:
        state = State(model, prompts, sum(map(len, prompts)))
        state.feed(following)
        whole = [
            model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0, -1] for text in texts
        ]
    except RUNS_NOT:
        return False
    return agrees(model, state.logits_BV, torch.stack(whole))


class State:
    """A model in the middle of several texts: what it says of the next token of each, `logits_BV`, and what it has
    read, the prompts in ragged batches of at most `max_tokens`."""

    def __init__(self, model: Any, prompts: Sequence[Tokens], max_tokens: int) -> None:
        self._model = model
        self.logits_BV, self._cache = _read(model, prompts, max_tokens)
        self._lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        longest = int(self._lengths_B.max())
        self._read_BW = torch.arange(longest, device=model.device) >= longest - self._lengths_B[:, None]

    def keep(self, indices: Sequence[int]) -> None:
        """Forget all texts but these."""
        kept = torch.tensor(indices, device=self._model.device)
        self._lengths_B, self._read_BW = self._lengths_B[kept], self._read_BW[kept]
        self._cache.batch_select_indices(kept)

    def feed(self, tokens_B: Tensor) -> None:
        """Go on with a token of each text."""
        self._read_BW = pad(self._read_BW, (0, 1), value=True)
        outputs = self._model(
            input_ids=tokens_B[:, None],
            attention_mask=self._read_BW.long(),
            position_ids=self._lengths_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits_BV, self._lengths_B = outputs.logits[:, -1], self._lengths_B + 1


def _read(model: Any, prompts: Sequence[Tokens], max_tokens: int) -> tuple[Tensor, DynamicCache]:
    """Logits (B, V) after each prompt, and the keys and values of all, right-aligned."""
    examples = [Example(tuple(p), (), None, "prompt", marks=((len(p) - 1, UNKNOWN),)) for p in prompts]
    width = max(map(len, prompts))
    logits: list[Tensor] = [torch.empty(0)] * len(prompts)
    layers: list[tuple[Tensor, Tensor]] = []
    for indices in evaluation_batches(examples, max_tokens, ragged=True):
        batch = ragged([examples[i] for i in indices], every_answer=True, causal=True, device=model.device)
        own = DynamicCache()
        outputs = model(**{**inputs_of(batch), "use_cache": True}, past_key_values=own, logits_to_keep=batch.rows_N)
        for i, row_V in zip(indices, outputs.logits[0], strict=True):
            logits[i] = row_V
        layers = layers or [_room(layer, len(prompts), width) for layer in own.layers]
        rows_nW = _rows(batch, [len(prompts[i]) for i in indices], width)
        for (keys, values), layer in zip(layers, own.layers, strict=True):
            keys[indices] = layer.keys[0][:, rows_nW].transpose(0, 1)
            values[indices] = layer.values[0][:, rows_nW].transpose(0, 1)
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return torch.stack(logits), cache


def _room(layer: Any, rows: int, width: int) -> tuple[Tensor, Tensor]:
    keys, values = (
        tensor.new_empty(rows, tensor.shape[1], width, tensor.shape[3]) for tensor in (layer.keys, layer.values)
    )
    return keys, values


def _rows(batch: Batch, lengths: Sequence[int], width: int) -> Tensor:
    """Where in a ragged batch the tokens of each prompt stand (n, W), right-aligned; the rest is masked later."""
    rows_nW = torch.zeros(len(lengths), width, dtype=torch.long)
    at = 0
    for source in batch.sources:
        for example in source.examples:
            start = width - lengths[example] + source.offset
            rows_nW[example, start : start + source.length] = torch.arange(at, at + source.length)
        at += source.length
    return rows_nW.to(batch.ids_BT.device)
