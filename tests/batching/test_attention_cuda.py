"""FlexAttention and varlen see what the tiles see. Flex also runs, uncompiled and forward only, on a CPU."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from pefttune.batching import Batch, ragged
from pefttune.batching.attention import attention
from pefttune.batching.attention_cuda import flex, varlen
from pefttune.data import Example

SCALE = 0.25


def some(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(5, 200) for _ in range(count))


def tree(device: str, *, shared: bool) -> Batch:
    """Two questions about one passage and a stranger, behind one instruction; or three strangers."""
    rng = random.Random(0)
    trunk, passage = some(rng, 40), some(rng, 30)
    prompts = (
        [(*trunk, *passage, *some(rng, 9)), (*trunk, *passage, *some(rng, 12)), (*trunk, *some(rng, 70))]
        if shared
        else [some(rng, 9), some(rng, 150), some(rng, 70)]
    )
    examples = [Example(prompt, (some(rng, 3),), 0, "") for prompt in prompts]
    return ragged(examples, every_answer=True, causal=True, device=torch.device(device))


def tensors(batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    device = batch.ids_BT.device
    query, key, value = (torch.randn(1, heads, batch.n_tokens, 16, device=device, dtype=dtype) for heads in (4, 2, 2))
    return query, key, value


def by_tiles(batch: Batch, parts: tuple[Tensor, ...], window: int | None) -> Tensor:
    query, key, value = (part.float() for part in parts)  # float32 goes by tiles on a GPU as well
    return attention(nn.Module(), query, key, value, None, layout=batch.layout, scaling=SCALE, sliding_window=window)[0]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("window", [None, 20])
def test_flex_sees_what_the_tiles_see(shared: bool, window: int | None) -> None:
    batch = tree("cpu", shared=shared)
    parts = tensors(batch, torch.float32)
    assert batch.layout is not None
    with torch.no_grad():
        found = flex(*parts, batch.layout, window, SCALE)
    # float32, sums in another order.
    assert (found - by_tiles(batch, parts, window)).abs().max() < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("window", [None, 20])
def test_a_gpu_sees_what_the_tiles_see_and_gives_their_gradients(shared: bool, window: int | None) -> None:
    batch = tree("cuda", shared=shared)
    assert batch.layout is not None
    parts = [part.requires_grad_() for part in tensors(batch, torch.bfloat16)]
    exact = [part.detach().float().requires_grad_() for part in parts]
    kernel = flex if shared else varlen
    ours, tiles = kernel(*parts, batch.layout, window, SCALE), by_tiles(batch, tuple(exact), window)
    # bfloat16 keeps 8 bits: values near 1 are rounded by 0.004, and a gradient sums up to 150 of them.
    assert (ours.float() - tiles).abs().max() < 0.05
    slope = torch.randn_like(tiles)
    found = torch.autograd.grad(ours, parts, slope.bfloat16())
    wanted = torch.autograd.grad(tiles, exact, slope)
    for one, other in zip(found, wanted, strict=True):
        assert (one.float() - other).norm() < 0.02 * other.norm()
