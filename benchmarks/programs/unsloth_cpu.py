"""Unsloth's FastLanguageModel with SFTTrainer, by its public interface; on a machine without a GPU, its CPU backend.

Variants: `defaults` (gradient checkpointing as Unsloth's documentation sets it), `best` (none).
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import unsloth  # isort: skip  # before the libraries it adapts
import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "unsloth", "unsloth_zoo")
TOLD = ("gradient_checkpointing", "padding_free", "packing", "bf16", "optim")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LONGEST = 2048


class Clock(TrainerCallback):
    """Seconds from one step's end to the next one's, so fetching and collating the data count; and the losses."""

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


def rows_of(job: dict[str, Any]) -> Dataset:
    """The job's examples in the order of its steps, tokenized, with a mask of what is to be learned."""
    examples = [job["examples"][index] for step in job["steps"] for index in step]
    answers = [example["answers"][example["target"]] for example in examples]
    pairs = [(example["prompt"], answer) for example, answer in zip(examples, answers, strict=True)]
    return Dataset.from_dict(
        {
            "input_ids": [prompt + answer for prompt, answer in pairs],
            "completion_mask": [[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs],
        }
    )


def load_model(job: dict[str, Any]) -> tuple[Any, Any]:
    """The base with LoRA, and its tokenizer."""
    base, lora = job["base"], job["lora"]
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        base["folder"],
        max_seq_length=LONGEST,
        dtype=getattr(torch, base["dtype"]),
        load_in_4bit=base["quantization"] == "nf4",
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=0,
        bias="none",
        target_modules=LINEAR,
        layers_to_transform=lora["layers"],
        use_gradient_checkpointing=False if job["settings"]["variant"] == "best" else "unsloth",
        random_state=job["seed"],
    )
    return model, tokenizer


def arguments(job: dict[str, Any], folder: str) -> SFTConfig:
    """One pass over the rows in their order, AdamW without decay, constant rate; the rest as the variant has it."""
    return SFTConfig(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=len(job["steps"][0]),
        train_sampling_strategy="sequential",
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=job["max_grad_norm"],
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=job["settings"]["variant"] != "best",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )


def resident_mib(line: str = "VmRSS") -> float:
    """Memory in use, or its peak (`VmHWM`); on a GPU that of its allocator."""
    if torch.cuda.is_available():
        return (torch.cuda.max_memory_allocated() if line == "VmHWM" else torch.cuda.memory_allocated()) / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(entry for entry in status if entry.startswith(line)).split()[1]) / 1024


def reset_peak() -> None:
    """Forget the peak of loading."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    set_seed(job["seed"])
    model, tokenizer = load_model(job)
    trainer = SFTTrainer(
        model=model,
        args=arguments(job, str(Path(sys.argv[2]).parent / "trainer")),
        train_dataset=rows_of(job),
        processing_class=tokenizer,
    )
    clock, trainer.data_collator = Clock(job), Counting(trainer.data_collator)
    trainer.add_callback(clock)
    reset_peak()
    before = resident_mib()
    trainer.train()
    result = {
        "seconds": clock.seconds,
        "losses": clock.losses,
        "positions": trainer.data_collator.positions,
        "labelled": trainer.data_collator.labelled,
        "resident_before_mib": before,
        "peak_mib": resident_mib("VmHWM"),
        "versions": {name: version(name) for name in PACKAGES},
        "settings": job["settings"] | {name: str(getattr(trainer.args, name)) for name in TOLD},
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
