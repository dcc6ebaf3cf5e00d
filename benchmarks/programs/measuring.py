"""What the peers' programs share: the clock, the count of positions, memory, and how a job is read and answered.

Needs torch and transformers only, so that it runs in the environment of any peer.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig


class Clock:
    """What a trainer's callback does: seconds from one step's end to the next one's, so that fetching and collating
    the data count; and the losses."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.mark = job, 0.0
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.mark = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, _control: Any, model: Any = None, **__: Any) -> None:
        """Note the step; save the adapter, if asked for, while the clock stands."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.mark)
        if self.job["save_every"] and state.global_step % self.job["save_every"] == 0:
            model.save_pretrained(Path(self.job["save_folder"]) / str(state.global_step))
        self.mark = time.perf_counter()

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **__: Any) -> None:
        """Note the loss."""
        if "loss" in logs:
            self.losses.append(logs["loss"])


class Counting:
    """The trainer's own collator, counting positions and labels."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate
        self.positions: list[int] = []
        self.labelled: list[int] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The trainer's batch."""
        batch: dict[str, torch.Tensor] = self.collate(rows)
        self.positions.append(batch["input_ids"].numel())
        self.labelled.append(int((batch["labels"] != -100).sum()))
        return batch


def rows_with_mask(job: dict[str, Any]) -> dict[str, list[list[int]]]:
    """The job's examples in the order of its steps, tokenized, with a mask of what is to be learned: TRL's columns."""
    examples = [job["examples"][index] for step in job["steps"] for index in step]
    pairs = [(example["prompt"], example["answers"][example["target"]]) for example in examples]
    return {
        "input_ids": [prompt + answer for prompt, answer in pairs],
        "completion_mask": [[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs],
    }


def loading(job: dict[str, Any]) -> dict[str, Any]:
    """How `from_pretrained` is to load the job's base."""
    dtype = getattr(torch, job["base"]["dtype"])
    quantization = None
    if job["base"]["quantization"] == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {
        "dtype": dtype,
        "quantization_config": quantization,
        "device_map": {"": 0 if torch.cuda.is_available() else "cpu"},
    }


def one_pass(job: dict[str, Any]) -> dict[str, Any]:
    """Settings of transformers' Trainer: the rows once in their order, AdamW without decay, constant rate."""
    return {
        "output_dir": str(Path(sys.argv[2]).parent / "trainer"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": len(job["steps"][0]),
        "train_sampling_strategy": "sequential",
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": job["max_grad_norm"],
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": job["seed"],
    }


def read_job() -> dict[str, Any]:
    """The job of the first argument; pins the threads."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    return job


def train(
    trainer: Any,
    job: dict[str, Any],
    packages: Sequence[str],
    settings: dict[str, Any],
    judge: Callable[[], list[list[float]]] = list,
) -> None:
    """Run the trainer and write what was measured to the file of the second argument. `judge` scores examples when the
    training is over."""
    from transformers import TrainerCallback  # not above: its 55 MiB of modules are none of a scoring program's memory

    class Callback(Clock, TrainerCallback):
        """The clock; nothing at the other events."""

    clock, counting = Callback(job), Counting(trainer.data_collator)
    trainer.data_collator = counting
    trainer.add_callback(clock)
    before = start_of_peak()
    trainer.train()
    measured = {
        "seconds": clock.seconds,
        "losses": clock.losses,
        "positions": counting.positions,
        "labelled": counting.labelled,
        "scores": judge(),
    }
    tell(job, packages, before, measured, settings)


def tell(
    job: dict[str, Any], packages: Sequence[str], before: float, measured: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Write the result to the file of the second argument."""
    result = {
        **measured,
        "resident_before_mib": before,
        "peak_mib": memory_mib("VmHWM"),
        "versions": {name: version(name) for name in packages},
        "settings": job["settings"] | settings,
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


def start_of_peak() -> float:
    """Forget the peak of loading; memory in use now, in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return memory_mib("VmRSS")


def memory_mib(line: str) -> float:
    """Memory in use (`VmRSS`) or its peak (`VmHWM`); on a GPU that of its allocator."""
    if torch.cuda.is_available():
        return (torch.cuda.max_memory_allocated() if line == "VmHWM" else torch.cuda.memory_allocated()) / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(entry for entry in status if entry.startswith(line)).split()[1]) / 1024
