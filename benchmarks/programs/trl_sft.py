"""TRL's SFTTrainer on tokenized rows, loss on the answers only. Variants: `defaults` (TRL's documented ones, gradient
checkpointing among them), `best` (no checkpointing; with `padding_free`, rows laid end to end instead of padded)."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from benchmarks.programs.measuring import loading, one_pass, read_job, rows_with_mask, train

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")
TOLD = ("gradient_checkpointing", "padding_free", "packing", "bf16", "optim", "loss_type")


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


def arguments(job: dict[str, Any]) -> SFTConfig:
    """One pass over the rows, loss on the answers; the rest as the variant has it."""
    settings = job["settings"]
    best: dict[str, Any] = {}
    if settings["variant"] == "best":
        best = {"gradient_checkpointing": False, "padding_free": settings.get("padding_free", False)}
    return SFTConfig(
        **one_pass(job),
        max_length=None,
        completion_only_loss=True,
        bf16=job["base"]["dtype"] == "bfloat16",
        **best,
    )


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = read_job()
    set_seed(job["seed"])
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(job["base"]["folder"], **loading(job)),
        arguments(job),
        train_dataset=Dataset.from_dict(rows_with_mask(job)),
        processing_class=AutoTokenizer.from_pretrained(job["base"]["folder"]),
        peft_config=lora(job),
    )
    train(trainer, job, PACKAGES, {name: str(getattr(trainer.args, name)) for name in TOLD})


if __name__ == "__main__":
    main()
