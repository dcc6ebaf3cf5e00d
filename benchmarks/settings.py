"""What `benchmarks.methods` trains: two tasks, small enough that hours give every method, and a setting of each method.

Rates were judged beforehand, each method's usual one, not searched. Sizes are such that most low-rank methods and the
bottleneck have about as many parameters as LoRA of rank 8 on every linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.running import ROOT
from benchmarks.workloads import data_file

Overrides = dict[str, Any]
SAME: Overrides = {
    "training.cache_frozen_layers": False,  # else a later run finds what an earlier one has computed
    "training.load_best_model_at_end": False,
    "training.eval_steps": 1_000_000,
    "data.max_eval_samples": 16,
    "evaluation.bootstrap_samples": 100,
    "output.name": "cell",
}


@dataclass(frozen=True)
class Task:
    """A recipe cut down to about a minute of one core."""

    title: str
    recipe: Path
    rows: int
    test_rows: int
    overrides: Overrides
    data: Callable[[Path | None], Overrides] = lambda folder: {}
    """Overrides that say where its files are, in the folder of data that does not come along. Raises BenchmarkError."""


@dataclass(frozen=True)
class Setting:
    """A method with its keys and its learning rate."""

    learning_rate: float
    keys: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Overrides] = field(default_factory=dict)
    """What one task needs besides."""
    not_for: tuple[str, ...] = ()
    """Tasks on whose base the method does not work."""


def _tweets(folder: Path | None) -> Overrides:
    parts = {"train": "abeg", "validation": "h", "test": "f"}
    return {
        f"data.{part}": [str(data_file(folder, f"btc/{section}.conll")) for section in sections]
        for part, sections in parts.items()
    }


TASKS = {
    "film": Task(
        "Film sentiment, SmolLM2-135M-Instruct in NF4, by label words",
        ROOT / "recipes" / "film-sentiment.yaml",
        rows=400,
        test_rows=400,
        overrides={"training.per_device_train_batch_size": 8},
    ),
    "tweets": Task(
        "Entities of the Broad Twitter Corpus, MiniLM-L6",
        ROOT / "recipes" / "broad-twitter.yaml",
        rows=3000,
        test_rows=1999,
        overrides={},
        data=_tweets,
    ),
}

PARALLEL = {"placement": "parallel", "non_linearity": "silu", "reduction_factor": 8}
SETTINGS = {
    "lora": Setting(1e-3, {"r": 8}),
    "dora": Setting(1e-3, {"r": 8}),
    "adalora": Setting(1e-3, {"init_r": 12, "target_r": 8}),
    "ia3": Setting(1e-2),
    "oft": Setting(1e-3),
    "boft": Setting(1e-3),
    "vera": Setting(1e-2),
    "miss": Setting(1e-3, {"r": 16}),
    "ln_tuning": Setting(5e-3),
    "prompt_tuning": Setting(3e-2),
    "p_tuning": Setting(1e-3),
    "prefix_tuning": Setting(1e-2, not_for=("tweets",)),  # an encoder keeps no keys and values
    "trainable_tokens": Setting(
        1e-2,
        on={
            "film": {"adapter.tokens": ["<|im_start|>", "<|im_end|>"]},  # those that stand around every text
            "tweets": {"adapter.tokens": ["[CLS]", "[SEP]"]},
        },
    ),
    "bottleneck": Setting(1e-3, PARALLEL, on={"tweets": {"adapter.reduction_factor": 5}}),
    "head": Setting(1e-2, on={"film": {"task.approach": "head"}}),
}


def overrides_of(task: str, method: str, rows: int | None, epochs: float | None = None) -> Overrides:
    """What makes the task's recipe one of this method, for so many training rows (None: the usual) and at most as many
    test rows; so many epochs, or those of the recipe."""
    chosen, setting = TASKS[task], SETTINGS[method]
    rows = rows or chosen.rows
    limits: Overrides = {"data.max_train_samples": rows, "data.max_test_samples": min(rows, chosen.test_rows)}
    limits |= {"training.num_train_epochs": epochs} if epochs else {}
    own = {"adapter": {"method": method, **setting.keys}, "training.learning_rate": setting.learning_rate}
    return {**SAME, **limits, **chosen.overrides, **own, **setting.on.get(task, {})}
