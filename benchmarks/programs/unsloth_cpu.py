"""Unsloth's FastLanguageModel with SFTTrainer, by its public interface; on a machine without a GPU, its CPU backend.

Variants: `defaults` (gradient checkpointing as Unsloth's documentation sets it), `best` (none).
"""

from __future__ import annotations

from typing import Any

import unsloth  # isort: skip  # before the libraries it adapts
import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from benchmarks.programs.measuring import one_pass, read_job, rows_with_mask, train

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "unsloth", "unsloth_zoo")
TOLD = ("gradient_checkpointing", "padding_free", "packing", "bf16", "optim")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LONGEST = 2048


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


def arguments(job: dict[str, Any]) -> SFTConfig:
    """One pass over the rows, loss on the answers; the rest as the variant has it."""
    return SFTConfig(
        **one_pass(job),
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=job["settings"]["variant"] != "best",
    )


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = read_job()
    set_seed(job["seed"])
    model, tokenizer = load_model(job)
    trainer = SFTTrainer(
        model=model,
        args=arguments(job),
        train_dataset=Dataset.from_dict(rows_with_mask(job)),
        processing_class=tokenizer,
    )
    train(trainer, job, PACKAGES, {name: str(getattr(trainer.args, name)) for name in TOLD})


if __name__ == "__main__":
    main()
