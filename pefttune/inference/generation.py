"""Writing answers, token by token, many prompts at once.

Prompts are read in ragged batches, so that none is padded and what several begin with is read once; their keys and
values then stand side by side, right-aligned, and an answer that has ended makes room. Shapes: B answers that are being
written, W positions, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, GenerationConfig
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from pefttune.bases import Base
from pefttune.batching import RUNS_NOT, Batch, agrees, evaluation_batches, inputs_of, ragged
from pefttune.data import Example
from pefttune.tasks import Generation, Writing

# Keys and values of all answers that are written together. With more answers a step costs less for each.
CACHE_MIB, CACHE_MIB_ON_GPU = 256, 4096
BROKEN = "\ufffd"  # what a decoder gives for bytes that are no character yet
UNSCORED = -100

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Chance in what is written: tokens are drawn from the likeliest that together have the probability `top_p`."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


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
) -> Iterator[None]:
    """Write an answer to each prompt; with every step, each that is not done gets a token.

    Prompts are read in batches of at most `max_tokens`, by a model that `can_write`.
    """
    state, growing = State(model, prompts, max_tokens), list(answers)
    choose = _chooser(sampling, ends, model.device)
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


Choose = Callable[[Tensor, Sequence[Answer]], tuple[Tensor, Tensor]]


def _chooser(sampling: Sampling | None, ends: frozenset[int], device: torch.device) -> Choose:
    """Picks from logits (B, V) a token for each answer, with its log-likelihood."""
    ends_E = torch.tensor(sorted(ends), device=device)
    chance = torch.Generator(device).manual_seed(sampling.seed) if sampling else None

    def choose(logits_BV: Tensor, answers: Sequence[Answer]) -> tuple[Tensor, Tensor]:
        log_chances_BV = logits_BV.log_softmax(-1)
        allowed_BV = logits_BV
        if too_short := [i for i, answer in enumerate(answers) if not answer.may_end]:
            allowed_BV = logits_BV.clone()
            allowed_BV[torch.tensor(too_short, device=device)[:, None], ends_E] = float("-inf")
        if sampling is None:
            tokens_B = allowed_BV.argmax(-1)
        else:
            warped_BV = TemperatureLogitsWarper(sampling.temperature)(None, allowed_BV)
            warped_BV = TopPLogitsWarper(sampling.top_p)(None, warped_BV)
            tokens_B = torch.multinomial(warped_BV.softmax(-1), 1, generator=chance)[:, 0]
        return tokens_B, log_chances_BV.gather(1, tokens_B[:, None])[:, 0]

    return choose


def _read(model: Any, prompts: Sequence[Tokens], max_tokens: int) -> tuple[Tensor, DynamicCache]:
    """Logits (B, V) after each prompt, and the keys and values of all, right-aligned."""
    examples = [Example(tuple(p), (), None, "prompt", marks=((len(p) - 1, UNSCORED),)) for p in prompts]
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


@torch.no_grad()
def written_by_transformers(
    base: Base,
    prompts: Sequence[Tokens],
    generation: Generation,
    ends: frozenset[int],
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """The tokens of an answer to each prompt by transformers' own `generate`: with beams, or for a model that cannot
    read ragged batches."""
    pad_id, apart = min(ends), base.model.config.is_encoder_decoder
    side = "right" if apart else "left"
    ids_BW = pad_sequence([torch.tensor(prompt) for prompt in prompts], True, pad_id, side)
    mask_BW = pad_sequence([torch.ones(len(prompt), dtype=torch.long) for prompt in prompts], True, 0, side)
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling else {}
    config = GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_new_tokens,
        num_beams=generation.num_beams,
        stop_strings=list(generation.stop) or None,
        eos_token_id=sorted(ends),
        pad_token_id=pad_id,
        repetition_penalty=1.0,  # else that of the model's own settings
        do_sample=sampling is not None,
        **drawn,
    )
    with torch.random.fork_rng(enabled=sampling is not None):
        if sampling is not None:
            torch.manual_seed(sampling.seed)
        written_BW = base.model.generate(
            input_ids=ids_BW.to(base.device),
            attention_mask=mask_BW.to(base.device),
            generation_config=config,
            tokenizer=base.tokenizer,
        )
    first = 1 if apart else ids_BW.shape[1]  # behind the prompt, or what a decoder begins with
    answers = [_until_end(row, ends) for row in written_BW[:, first:].tolist()]
    if base.model.generation_config.forced_eos_token_id is None:
        return answers
    # BART's end is put in place of the last token allowed, whatever the model would say: that is no end.
    return [own[:-1] if 1 < len(own) == generation.max_new_tokens and own[-1] in ends else own for own in answers]


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens, start=1) if token in ends), len(tokens))
    return tokens[:end]
