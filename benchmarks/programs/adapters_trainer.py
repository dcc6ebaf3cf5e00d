"""The `adapters` library: its adapter and a head on an encoder of transformers, by its AdapterTrainer on padded rows.

`settings.theirs` is the method's configuration by its class's name there. Without steps nothing is added to the base
but the head: what the gate compares.
"""

from __future__ import annotations

from typing import Any

import adapters
import torch
from torch.utils.data import SequentialSampler
from transformers import AutoModelForSequenceClassification, TrainingArguments, set_seed

from benchmarks.programs.measuring import loading, one_pass, read_job, start_of_peak, tell, train

PACKAGES = ("torch", "transformers", "adapters", "accelerate")
NAME = "benchmark"


class InOrder(adapters.AdapterTrainer):
    """Takes the rows in their order; this version of transformers has no setting for it."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Padding:
    """Pads a step's examples to the longest."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch."""
        width = max(len(row["prompt"]) for row in rows)
        ids_BT = torch.full((len(rows), width), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row["prompt"])] = torch.tensor(row["prompt"])
            mask_BT[index, : len(row["prompt"])] = 1
        labels_B = torch.tensor([row["target"] for row in rows])
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_B}


def load_model(job: dict[str, Any]) -> Any:
    """The base with a head, and where there is something to train the adapter, which acts and alone learns with it."""
    model = AutoModelForSequenceClassification.from_pretrained(
        job["base"]["folder"], num_labels=job["classes"], **loading(job)
    )
    generator = torch.Generator().manual_seed(job["seed"])  # the same head for everybody
    weight = model.classifier.weight
    weight.data.copy_(torch.randn(weight.shape, generator=generator) * model.config.initializer_range)
    if job["steps"]:
        adapters.init(model)
        theirs = job["settings"]["theirs"]
        model.add_adapter(NAME, config=getattr(adapters, theirs["config"])(**theirs["keys"]))
        model.train_adapter(NAME)
    return model


@torch.inference_mode()
def judge(job: dict[str, Any], model: Any) -> list[list[float]]:
    """Log-probabilities of the classes of each judged example."""
    padding, rows = Padding(model.config.pad_token_id), [job["examples"][index] for index in job["judged"]]
    model.eval()
    found: list[list[float]] = []
    for start in range(0, len(rows), job["batch_size"]):
        batch = padding(rows[start : start + job["batch_size"]])
        del batch["labels"]
        found += model(**batch).logits.float().log_softmax(-1).tolist()
    return found


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = read_job()
    set_seed(job["seed"])
    model = load_model(job)
    if not job["steps"]:
        before = start_of_peak()
        tell(job, PACKAGES, before, {"seconds": [], "scores": judge(job, model)}, {})
        return
    told = {name: value for name, value in one_pass(job).items() if name != "train_sampling_strategy"}
    trainer = InOrder(
        model,
        TrainingArguments(**told, remove_unused_columns=False),
        data_collator=Padding(model.config.pad_token_id),
        train_dataset=[job["examples"][index] for step in job["steps"] for index in step],
    )
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    train(trainer, job, PACKAGES, {"parameters": parameters}, lambda: judge(job, model))


if __name__ == "__main__":
    main()
