"""transformers' Trainer with PEFT and a padding collator. Variants: `random` (the job's order), `length-grouped`.

`length-grouped` sorts the timed examples by length, longest first, which is what Trainer's `group_by_length` does
within one of its mega-batches: the same examples in all, but not in each step.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.programs.measuring import loading, one_pass, read_job, train

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


class Padding:
    """Pads a step's examples to the longest."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

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
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def load_model(job: dict[str, Any]) -> Any:
    """The quantized base with LoRA, and a head if the job has classes."""
    options: dict[str, Any] = {"num_labels": job["classes"]} if job["classes"] else {}
    kind = AutoModelForSequenceClassification if job["classes"] else AutoModelForCausalLM
    model = kind.from_pretrained(job["base"]["folder"], **loading(job), **options)
    model.config.use_cache = False
    if job["classes"]:
        model.config.pad_token_id = pad_id(model)
        generator = torch.Generator().manual_seed(job["seed"])  # the same head for everybody
        start = torch.randn(model.score.weight.shape, generator=generator) * model.config.initializer_range
        model.score.weight.data.copy_(start)
    config = LoraConfig(
        r=job["lora"]["r"],
        lora_alpha=job["lora"]["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        layers_to_transform=job["lora"]["layers"],
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


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = read_job()
    set_seed(job["seed"])
    model = load_model(job)
    args = TrainingArguments(**one_pass(job), bf16=job["base"]["dtype"] == "bfloat16", remove_unused_columns=False)
    trainer = Trainer(model, args, data_collator=Padding(pad_id(model)), train_dataset=rows_of(job))
    train(trainer, job, PACKAGES, {"optimizer": str(args.optim), "gradient_checkpointing": False})


if __name__ == "__main__":
    main()
