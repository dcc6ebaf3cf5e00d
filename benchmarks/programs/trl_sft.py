"""TRL's SFTTrainer on tokenized rows, loss on the answers only. Variants: `defaults` (TRL's documented ones, gradient
checkpointing among them), `best` (no checkpointing; with `padding_free`, rows laid end to end instead of padded)."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")
TOLD = ("gradient_checkpointing", "padding_free", "packing", "bf16", "optim", "loss_type")


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


def load_model(job: dict[str, Any]) -> Any:
    """The quantized base."""
    base = job["base"]
    dtype = getattr(torch, base["dtype"])
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        base["folder"],
        dtype=dtype,
        quantization_config=quantization if base["quantization"] == "nf4" else None,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
    )


def lora(job: dict[str, Any]) -> LoraConfig:
    """LoRA on every linear layer."""
    return LoraConfig(
        r=job["lora"]["r"],
        lora_alpha=job["lora"]["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        layers_to_transform=job["lora"]["layers"],
        task_type="CAUSAL_LM",
    )


def arguments(job: dict[str, Any], folder: str) -> SFTConfig:
    """One pass over the rows in their order, AdamW without decay, constant rate; the rest as the variant has it."""
    settings = job["settings"]
    best: dict[str, Any] = {}
    if settings["variant"] == "best":
        best = {"gradient_checkpointing": False, "padding_free": settings.get("padding_free", False)}
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
        bf16=job["base"]["dtype"] == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
        **best,
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
    trainer = SFTTrainer(
        load_model(job),
        arguments(job, str(Path(sys.argv[2]).parent / "trainer")),
        train_dataset=rows_of(job),
        processing_class=AutoTokenizer.from_pretrained(job["base"]["folder"]),
        peft_config=lora(job),
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
