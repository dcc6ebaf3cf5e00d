"""What this machine can multiply, and the multiplications that a loss needs: the ceiling for any trainer."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks.job import Example, LoraChoice

ROWS, ROWS_ON_GPU, TRIES = 512, 8192, 30


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like base."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, folder: str) -> Shape:
        """The shape of the base in `folder`."""
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return cls(
            config["hidden_size"],
            config["intermediate_size"],
            config["num_hidden_layers"],
            heads,
            config.get("num_key_value_heads", heads),
            config.get("head_dim") or config["hidden_size"] // heads,
            config["vocab_size"],
        )

    @property
    def qkv(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers that read a layer's input."""
        width = self.heads * self.head_dim
        return [(self.hidden, width), *[(self.hidden, self.kv_heads * self.head_dim)] * 2]

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of all linear layers of one layer."""
        mlp = [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return [*self.qkv, (self.heads * self.head_dim, self.hidden), *mlp]


@dataclass(frozen=True)
class Needed:
    """What a step's loss needs: the common beginning of the prompts once, and no answer's last token, which predicts
    nothing."""

    prefix: int
    segments: list[int]
    """Tokens of each example behind the common beginning."""
    labelled: int

    @property
    def tokens(self) -> int:
        """Positions that have to go through the layers."""
        return self.prefix + sum(self.segments)

    @property
    def attended(self) -> int:
        """Pairs of a position and one that it sees."""
        pairs = [size * self.prefix + size * (size + 1) // 2 for size in self.segments]
        return self.prefix * (self.prefix + 1) // 2 + sum(pairs)


def needed(examples: Sequence[Example]) -> Needed:
    """What the loss of these examples, one optimizer step, needs."""
    columns = zip(*(example.prompt for example in examples), strict=False)
    prefix = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    lengths = [len(example.prompt) + max(0, len(example.answer) - 1) for example in examples]
    return Needed(prefix, [length - prefix for length in lengths], sum(max(1, len(e.answer)) for e in examples))


def needed_flops(shape: Shape, lora: LoraChoice, need: Needed, classes: int = 0) -> int:
    """Floating-point operations of one step: forward everywhere, backward above the lowest adapter.

    Frozen weights get no gradient, so backward costs what forward does; the layers that read the lowest adapted layer's
    input need none at all. An adapter's weights do get gradients: 6 operations for each of its parameters and tokens.
    """
    adapted = range(shape.layers) if lora.layers is None else lora.layers
    above = shape.layers - min(adapted)
    parameters = sum(i * o for i, o in shape.linears)
    forward = 2 * need.tokens * parameters * shape.layers
    backward = 2 * need.tokens * (parameters * above - sum(i * o for i, o in shape.qkv))
    adapters = 6 * need.tokens * len(adapted) * lora.r * sum(i + o for i, o in shape.linears)
    attention = 4 * need.attended * shape.heads * shape.head_dim * (shape.layers + 2 * above)
    output = 4 * need.labelled * shape.hidden * (classes or shape.vocabulary)
    return forward + backward + adapters + attention + output


def gemm_rate(shape: Shape, threads: int, dtype: str = "bfloat16", cuda: bool = False) -> float:
    """Operations per second of the base's own matrix products: the best of many tries, since a busy moment would make
    the ceiling look low and every trainer look good."""
    import torch

    torch.set_num_threads(threads)
    device, rows = ("cuda", ROWS_ON_GPU) if cuda else ("cpu", ROWS)
    seconds = 0.0
    for inputs, outputs in shape.linears:
        x = torch.randn(rows, inputs, device=device).to(getattr(torch, dtype))
        weight = torch.randn(inputs, outputs, device=device).to(x.dtype)
        seconds += min(_seconds(x, weight, cuda) for _ in range(TRIES))
    return 2 * rows * sum(i * o for i, o in shape.linears) / seconds


def _seconds(x: Any, weight: Any, cuda: bool) -> float:
    import torch

    repeats = 20 if cuda else 1  # a GPU is told of many at once, so that telling takes no time
    start = time.perf_counter()
    for _ in range(repeats):
        x @ weight
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def describe(threads: int, cuda: bool = False) -> dict[str, Any]:
    """The machine in a few words, without its name."""
    told: dict[str, Any] = {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    if cuda:
        import torch

        told["gpu"] = torch.cuda.get_device_name()
    return {**told, "threads": threads, "python": platform.python_version()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
