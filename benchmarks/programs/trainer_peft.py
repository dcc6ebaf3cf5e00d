"""transformers' Trainer with PEFT and a padding collator. Variants: `random` (the job's order), `length-grouped`.

`length-grouped` sorts the timed examples by length, longest first, which is what Trainer's `group_by_length` does
within one of its mega-batches: the same examples in all, but not in each step.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


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


class Padding:
    """Pads a step's examples to the longest, and counts positions and labels."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.positions: list[int] = []
        self.labelled: list[int] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[index, :length] = torch.tensor(row["input_ids"])
            mask[index, :length] = 1
            if isinstance(row["labels"], list):
                labels[index, :length] = torch.tensor(row["labels"])
        if not isinstance(rows[0]["labels"], list):  # a class, for a head
            labels = torch.tensor([row["labels"] for row in rows])
        self.positions.append(ids.numel())
        self.labelled.append(int((labels != -100).sum()))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def load_model(job: dict[str, Any]) -> Any:
    """The quantized base with LoRA, and a head if the job has classes."""
    base, lora = job["base"], job["lora"]
    dtype = getattr(torch, base["dtype"])
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    options: dict[str, Any] = {"num_labels": job["classes"]} if job["classes"] else {}
    kind = AutoModelForSequenceClassification if job["classes"] else AutoModelForCausalLM
    model = kind.from_pretrained(
        base["folder"],
        dtype=dtype,
        quantization_config=quantization if base["quantization"] == "nf4" else None,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        **options,
    )
    model.config.use_cache = False
    if job["classes"]:
        model.config.pad_token_id = pad_id(model)
        generator = torch.Generator().manual_seed(job["seed"])  # the same head for everybody
        start = torch.randn(model.score.weight.shape, generator=generator) * model.config.initializer_range
        model.score.weight.data.copy_(start)
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        layers_to_transform=lora["layers"],
        task_type="SEQ_CLS" if job["classes"] else "CAUSAL_LM",
    )
    return get_peft_model(model, config)


def pad_id(model: Any) -> int:
    """The base's padding token, else its end token."""
    known = (model.config.pad_token_id, model.config.eos_token_id, 0)
    return next(token for token in known if isinstance(token, int))


def rows_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The job's examples, in the order of its steps; the timed ones by length if so asked."""
    order = [index for step in job["steps"] for index in step]
    if job["settings"].get("variant") == "length-grouped":
        warm = sum(len(step) for step in job["steps"][: job["warmup"]])
        lengths = [len(row_of(example, job)["input_ids"]) for example in job["examples"]]
        order = order[:warm] + sorted(order[warm:], key=lambda index: -lengths[index])
    return [row_of(job["examples"][index], job) for index in order]


def row_of(example: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Ids and labels of one example."""
    if job["classes"]:
        return {"input_ids": example["prompt"], "labels": example["target"]}
    answer = example["answers"][example["target"]]
    return {"input_ids": example["prompt"] + answer, "labels": [-100] * len(example["prompt"]) + answer}


def arguments(job: dict[str, Any], folder: str) -> TrainingArguments:
    """One pass over the rows in their order, AdamW without decay, constant rate."""
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=len(job["steps"][0]),
        train_sampling_strategy="sequential",
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=job["max_grad_norm"],
        bf16=job["base"]["dtype"] == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
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
    model = load_model(job)
    clock, collator = Clock(job), Padding(pad_id(model))
    args = arguments(job, str(Path(sys.argv[2]).parent / "trainer"))
    trainer = Trainer(model, args, data_collator=collator, train_dataset=rows_of(job), callbacks=[clock])
    reset_peak()
    before = resident_mib()
    trainer.train()
    result = {
        "seconds": clock.seconds,
        "losses": clock.losses,
        "positions": collator.positions,
        "labelled": collator.labelled,
        "resident_before_mib": before,
        "peak_mib": resident_mib("VmHWM"),
        "versions": {name: version(name) for name in PACKAGES},
        "settings": job["settings"] | {"optimizer": str(args.optim), "gradient_checkpointing": False},
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
