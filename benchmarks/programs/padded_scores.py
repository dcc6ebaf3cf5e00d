"""Scores of answers in plain transformers: each prompt with an answer a row, sorted by length, padded, log-softmax.

With `settings.canonical` bitsandbytes keeps its weights as quantized instead of repacking them at the first evaluation,
which some CPUs do by default, and which changes scores by some hundredths.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.programs.measuring import loading, read_job, start_of_peak, tell

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def load_model(job: dict[str, Any]) -> Any:
    """The quantized base, with the adapter of the job if there is one."""
    model = AutoModelForCausalLM.from_pretrained(job["base"]["folder"], **loading(job))
    if job["settings"].get("canonical"):
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    folders = job["settings"].get("adapters", [job["adapter"]] if job["adapter"] else [])
    for folder in folders:
        from peft import PeftModel

        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=named(folder))
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=named(folder))
    return model.eval()


def named(folder: str) -> str:
    """An adapter by its folder, in a name that a module may have."""
    return f"adapter{Path(folder).name}"


@torch.inference_mode()
def scores(model: Any, examples: list[dict[str, Any]], batch_size: int, folders: list[str]) -> list[list[float]]:
    """Log-likelihood of every answer of every example, by the adapters in turn if there are several."""
    rows = [(e, a) for e, example in enumerate(examples) for a in range(len(example["answers"]))]
    rows.sort(key=lambda row: -len(examples[row[0]]["prompt"]) - len(examples[row[0]]["answers"][row[1]]))
    result = [[0.0] * len(example["answers"]) for example in examples]
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        pairs = [(examples[e]["prompt"], examples[e]["answers"][a]) for e, a in chunk]
        whose = {"adapter_names": [named(folders[e % len(folders)]) for e, _ in chunk]} if folders else {}
        for (e, a), value in zip(chunk, score_batch(model, pairs, whose), strict=True):
            result[e][a] = value
    return result


def score_batch(model: Any, pairs: list[tuple[list[int], list[int]]], whose: dict[str, list[str]]) -> list[float]:
    """Log-likelihood of each answer behind its prompt, one padded forward pass."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids_BT = torch.zeros(len(pairs), width, dtype=torch.long)
    mask_BT, learned_BT = torch.zeros_like(ids_BT), torch.zeros(len(pairs), width, dtype=torch.bool)
    for index, (prompt, answer) in enumerate(pairs):
        length = len(prompt) + len(answer)
        ids_BT[index, :length] = torch.tensor(prompt + answer)
        mask_BT[index, :length] = 1
        learned_BT[index, len(prompt) : length] = True
    ids_BT, mask_BT, learned_BT = (tensor.to(model.device) for tensor in (ids_BT, mask_BT, learned_BT))
    learned_BT = learned_BT[:, 1:]
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, **whose).logits[:, :-1]
    log_probabilities_NV = logits_BTV[learned_BT].float().log_softmax(-1)
    tokens_N = log_probabilities_NV.gather(-1, ids_BT[:, 1:][learned_BT][:, None]).squeeze(-1)
    return [float(part.sum()) for part in tokens_N.cpu().split([len(answer) for _, answer in pairs])]


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = read_job()
    model = load_model(job)
    before = start_of_peak()
    folders = job["settings"].get("adapters", [])
    for _ in range(job["warmup"]):
        scores(model, job["examples"][: job["batch_size"]], job["batch_size"], folders)
    start = time.perf_counter()
    found = scores(model, job["examples"], job["batch_size"], folders)
    tell(job, PACKAGES, before, {"seconds": [time.perf_counter() - start], "scores": found}, {})


if __name__ == "__main__":
    main()
