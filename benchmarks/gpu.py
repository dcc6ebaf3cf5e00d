"""`python -m benchmarks.gpu SHAPE WORKLOAD --peer PEER`: the same comparison on a CUDA device, random weights.

Everything but the base is that of `benchmarks.training`: the same jobs, programs, checks and tables.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import gate, peers, random_base, report, workloads
from benchmarks.errors import BenchmarkError
from benchmarks.job import Job
from benchmarks.options import (
    Data,
    JsonFile,
    PeerName,
    PeerPython,
    Rounds,
    Rows,
    Steps,
    Threads,
    Warmup,
    told_plainly,
)

# Sizes as published in each model's config.json; rope scaling is left out, it costs nothing.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
}


def check_device() -> None:
    """Raise BenchmarkError where torch sees no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise BenchmarkError("torch sees no CUDA device here; on a CPU use python -m benchmarks.training")


def on_shape(job: Job, shape: str, folder: Path) -> Job:
    """The job on a random base of that shape, written into `folder`."""
    if shape not in SHAPES:
        raise BenchmarkError(f"there is no shape {shape!r}; there are {', '.join(SHAPES)}")
    written = random_base.write(folder / shape, SHAPES[shape], Path(job.base.folder), cuda=True)
    return replace(job, base=replace(job.base, folder=str(written)))


def main(
    shape: Annotated[str, typer.Argument(help=f"{', '.join(SHAPES)}.")],
    workload: Annotated[str, typer.Argument(help=f"{', '.join(workloads.WORKLOADS)}.")] = "sst2",
    peer: PeerName = "trl",
    json_file: JsonFile = None,
    peer_python: PeerPython = None,
    rounds: Rounds = 3,
    steps: Steps = 20,
    warmup: Warmup = 5,
    rows: Rows = None,
    threads: Threads = 4,
    data: Data = None,
) -> None:
    """Compare training steps on the GPU after the correctness gate, alternating fresh processes."""
    with told_plainly(), tempfile.TemporaryDirectory() as folder:
        check_device()
        chosen = workloads.find(workload)
        opponent = peers.find(peer, head=bool(chosen.classes))
        job = chosen.job(workload, workloads.Size(warmup, steps, rows), data, threads)
        gate.check()
        found = report.compare(on_shape(job, shape, Path(folder)), peer, opponent, peer_python, rounds, cuda=True)
        report.write(found, json_file)
        report.show(found)


if __name__ == "__main__":
    typer.run(main)
