"""What the peers' programs do to a job before and after the clock."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gate, inference
from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice, Example, Job, Result

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from benchmarks.programs import measuring, padded_scores, trainer_peft

LENGTHS = (5, 2, 9, 3, 7, 4)


def job_of(variant: str) -> dict[str, Any]:
    examples = [Example([1] * length, [[8, 9]], 0) for length in LENGTHS]
    settings = {"variant": variant}
    return asdict(Job("sst2", BaseChoice("x"), examples, [[0, 1], [3, 2], [4, 5]], warmup=1, settings=settings))


def lengths_of(rows: list[dict[str, Any]]) -> list[int]:
    return [len(row["input_ids"]) - 2 for row in rows]


def test_rows_come_in_the_order_of_the_steps() -> None:
    assert lengths_of(trainer_peft.rows_of(job_of("random"))) == [5, 2, 3, 9, 7, 4]


def test_grouping_sorts_the_timed_rows_and_leaves_the_warm_up() -> None:
    assert lengths_of(trainer_peft.rows_of(job_of("length-grouped"))) == [5, 2, 9, 7, 4, 3]


def test_padding_is_counted() -> None:
    counting = measuring.Counting(trainer_peft.Padding(pad_id=0))
    batch = counting(trainer_peft.rows_of(job_of("random"))[:2])
    assert (counting.positions, counting.labelled) == ([14], [4])
    assert batch["labels"].tolist() == [[-100] * 5 + [8, 9], [-100, -100, 8, 9, -100, -100, -100]]


def test_masked_rows_are_those_of_the_steps() -> None:
    job = job_of("defaults")
    rows = measuring.rows_with_mask(job)
    assert rows["input_ids"] == [row["input_ids"] for row in trainer_peft.rows_of(job)]
    assert rows["completion_mask"][:2] == [[0] * 5 + [1, 1], [0, 0, 1, 1]]


def test_padded_scores_are_those_of_each_row_alone(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    gate.write_base(tmp_path)
    examples = [asdict(example) for example in gate.job_of(str(tmp_path), 0).examples]
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    found = padded_scores.scores(model, examples, batch_size=4, folders=[])
    for example, row in zip(examples, found, strict=True):
        for answer, score in zip(example["answers"], row, strict=True):
            ids = torch.tensor([example["prompt"] + answer])
            steps = model(ids).logits[0].detach().log_softmax(-1)[len(example["prompt"]) - 1 : -1]
            alone = sum(float(step[token]) for step, token in zip(steps, answer, strict=True))
            assert score == pytest.approx(alone, abs=1e-5)  # padding changes the order of sums


def scored(*rows: list[float]) -> Result:
    return Result([1.0], 0.0, 0.0, {}, scores=list(rows))


def test_scores_may_differ_by_rounding_only() -> None:
    inference.check_same_scores(scored([-1.0, -2.0]), scored([-1.0005, -2.0]))
    with pytest.raises(BenchmarkError, match="apart"):
        inference.check_same_scores(scored([-1.0, -2.0]), scored([-1.002, -2.0]))
    with pytest.raises(BenchmarkError, match="1 of 2 predicted labels differ"):
        inference.check_same_scores(scored([-1.0, -1.0005], [0.0, -1.0]), scored([-1.0005, -1.0], [0.0, -1.0]))
