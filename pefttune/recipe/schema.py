"""A recipe: one YAML file, one downstream task, complete. Typed, frozen, strict; this is where every knob is defined.

Each field carries its meaning in `description`, its unit in `json_schema_extra`, and an example where its default shows
none; `pefttune explain` and the pages in `docs/recipe/` are made from them. A rule that no type can say is a validator:
it raises ValueError with a sentence for the user. Nothing here imports torch.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pefttune.recipe.adapters import METHODS, AdapterSection, Head, Lora
from pefttune.recipe.tasks import TaskSection
from pefttune.recipe.types import Fraction, NonNegative, Number, Positive, Section, Switch, Texts, Whole


class Base(Section):
    """The frozen pretrained model."""

    source: str = Field(
        "smollm2-135m-instruct",
        description="A catalogue name, a Hub id, a local folder, or a GGUF file.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch on the Hub.", examples=["main"])
    quantization: Literal["nf4", "fp4", "int8", "none"] = Field(
        "nf4",
        description="How the frozen weights are quantized (QLoRA, arXiv:2305.14314; LLM.int8(), arXiv:2208.07339). "
        "Where a quarter of the free memory holds them, 4-bit weights are dequantized once, to the same function.",
    )
    double_quantization: Switch = Field(
        True, description="Quantize the 4-bit scales as well: 0.4 bit per parameter less. Only for nf4 and fp4."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute dtype. `auto` measures which one this machine multiplies fastest."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the base lives. `auto`: a GPU if any.")


class Split(Section):
    """How rows of one source are divided; by content, so that a row never wanders when the file grows."""

    validation: Fraction = Field(
        0.1,
        description="Part of the rows held out to watch training.",
        json_schema_extra={"unit": "fraction of the rows"},
    )
    test: Fraction = Field(
        0.1,
        description="Part of the rows held out for the final comparison.",
        json_schema_extra={"unit": "fraction of the rows"},
    )

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave no rows to train on: their sum must be below 1")
        return self


class Bin(Section):
    """An open interval of a numeric label."""

    above: Number | None = Field(None, description="Values must be greater than this.")
    below: Number | None = Field(None, description="Values must be less than this.")

    @model_validator(mode="after")
    def _not_void(self) -> Bin:
        lower, upper = self.ends
        if lower >= upper:
            raise ValueError(f"holds no number: none is greater than {lower:g} and less than {upper:g}")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends, infinite where none is given."""
        return (-math.inf if self.above is None else self.above, math.inf if self.below is None else self.below)

    def holds(self, value: float) -> bool:
        """Whether `value` lies strictly inside the interval."""
        lower, upper = self.ends
        return lower < value < upper


class Data(Section):
    """Where rows come from and how they are read."""

    source: str | None = Field(
        None,
        description="One source to be split: a catalogue name, a file, or a Hub data set id.",
        examples=["reviews.csv"],
    )
    train: str | Texts | None = Field(
        None,
        description="Training rows: a file, or a split's name when `source` is a Hub id; or a list of them.",
        examples=["train.jsonl", ["a.conll", "b.conll"]],
    )
    validation: str | Texts | None = Field(
        None,
        description="Validation rows, likewise. Without it, a part of `train`.",
        examples=["validation.jsonl"],
    )
    test: str | Texts | None = Field(None, description="Test rows, likewise.", examples=["test.jsonl"])
    revision: str | None = Field(None, description="Commit of the Hub data set.", examples=["main"])
    config_name: str | None = Field(None, description="Configuration of the Hub data set.", examples=["plain_text"])
    format: Literal["auto", "json", "jsonl", "csv", "tsv", "parquet", "conll"] = Field(
        "auto", description="File format. `auto`: by the file's ending."
    )
    column_names: Texts | None = Field(
        None,
        description="Names of the columns of a CSV or TSV file that has no header line.",
        examples=[["text", "label"]],
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The task's column → the source's column, where they differ.",
        examples=[{"text": "review", "label": "stars"}],
    )
    label_bins: dict[str, Bin] | None = Field(
        None,
        description="Turns a numeric label into a name: label → {above, below}. Rows in no bin are left out.",
        examples=[{"negative": {"below": 0}, "positive": {"above": 0}}],
    )
    split: Split = Field(default_factory=Split, description="Division of `source` where it has no splits of its own.")
    max_train_samples: Whole | None = Field(
        None,
        gt=0,
        description="Rows to train on at most, chosen by content. By default all.",
        examples=[10000],
        json_schema_extra={"unit": "rows"},
    )
    max_eval_samples: Whole | None = Field(
        None,
        gt=0,
        description="Validation rows at most, chosen by content. By default all.",
        examples=[1000],
        json_schema_extra={"unit": "rows"},
    )
    max_test_samples: Whole | None = Field(
        None,
        gt=0,
        description="Test rows at most, chosen by content. By default all.",
        examples=[1000],
        json_schema_extra={"unit": "rows"},
    )
    max_length: Whole = Field(
        512,
        gt=0,
        description="Longest example, prompt and answer together; for an encoder-decoder the longest of each.",
        json_schema_extra={"unit": "tokens"},
    )
    too_long: Literal["truncate", "drop", "error"] = Field(
        "truncate", description="What happens to a text over `max_length`: always counted and reported."
    )
    max_bad_rows: Whole = Field(
        0,
        ge=0,
        description="Broken rows to skip, counted and named; one more stops the run.",
        json_schema_extra={"unit": "rows"},
    )

    @field_validator("label_bins")
    @classmethod
    def _bins_are_apart(cls, bins: dict[str, Bin] | None) -> dict[str, Bin] | None:
        if bins is None:
            return None
        if len(bins) < 2:
            raise ValueError("needs at least two bins, or there is one label at most and nothing to learn")
        # In order of their lower ends, bins that overlap at all overlap their neighbour.
        for (left, one), (right, other) in pairwise(sorted(bins.items(), key=lambda item: item[1].ends)):
            if one.ends[1] > other.ends[0]:
                raise ValueError(f"bins {left!r} and {right!r} overlap: a number can lie in both")
        return bins

    @model_validator(mode="after")
    def _has_a_source(self) -> Data:
        if self.source is None and self.train is None:
            raise ValueError("give `source` (one source, to be split) or `train` (a file)")
        return self


class Training(Section):
    """The loop. Names are those of transformers' TrainingArguments."""

    per_device_train_batch_size: Whole = Field(
        16,
        gt=0,
        description="Examples per optimizer step, times `gradient_accumulation_steps`.",
        json_schema_extra={"unit": "examples"},
    )
    gradient_accumulation_steps: Whole = Field(
        1,
        gt=0,
        description="Multiplies the examples per optimizer step. How a step is divided into forward passes "
        "is decided by `max_batch_tokens`, and changes no gradient.",
        json_schema_extra={"unit": "times"},
    )
    max_batch_tokens: Whole | None = Field(
        None,
        gt=0,
        description="Tokens per forward pass, in training and evaluation: batches are filled up to it. Fewer need less "
        "memory. A longer row gets a pass of its own. By default 640 on a CPU and 16,384 on a GPU.",
        examples=[512],
        json_schema_extra={"unit": "tokens"},
    )
    cache_frozen_layers: Switch = Field(
        True,
        description="Keep on disk what enters the lowest adapted layer, computed once for each training and validation "
        "row, so that the frozen layers below are not run again by later epochs, validations and runs. For a head "
        "alone, what the whole base makes of a row.",
    )
    num_train_epochs: Positive = Field(
        1.0, description="Passes over the training rows.", json_schema_extra={"unit": "epochs"}
    )
    max_steps: Whole | None = Field(
        None,
        gt=0,
        description="Optimizer steps at most; overrides `num_train_epochs`.",
        examples=[1000],
        json_schema_extra={"unit": "optimizer steps"},
    )
    learning_rate: Positive | None = Field(
        None,
        description="Peak learning rate of AdamW. By default by the method, and the kind and width of the base "
        "(docs/defaults.md).",
        examples=[5e-4],
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", description="Shape of the learning rate over the run (transformers' schedulers)."
    )
    warmup_ratio: Fraction = Field(
        0.05,
        description="Part of the run over which the learning rate rises.",
        json_schema_extra={"unit": "fraction of the optimizer steps"},
    )
    weight_decay: NonNegative = Field(0.0, description="AdamW's decoupled weight decay.")
    max_grad_norm: NonNegative = Field(
        1.0, description="Gradient norm above which gradients are scaled down; 0: never."
    )
    eval_steps: Whole | None = Field(
        None,
        gt=0,
        description="Optimizer steps between evaluations. By default a quarter of the run.",
        examples=[100],
        json_schema_extra={"unit": "optimizer steps"},
    )
    load_best_model_at_end: Switch = Field(True, description="Keep the weights of the best evaluation, not the last.")
    early_stopping_patience: Whole | None = Field(
        None,
        gt=0,
        description="Stop after so many evaluations without improvement. By default never.",
        examples=[3],
        json_schema_extra={"unit": "evaluations"},
    )
    report_to: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = Field(
        (),
        description="Trackers to report to, through Accelerate. The JSON-lines log is always written.",
        examples=[["tensorboard"]],
    )


class Evaluation(Section):
    """How base and adapter are compared on the test rows."""

    bootstrap_samples: Whole = Field(
        2000,
        ge=100,
        description="Resamples for the paired bootstrap interval.",
        json_schema_extra={"unit": "resamples"},
    )
    confidence_level: Number = Field(0.95, gt=0, lt=1, description="Coverage of the intervals.")


class Output(Section):
    """Where things are written."""

    name: str = Field(
        description="Name of the adapter, and of its folder: 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`; a letter or "
        "digit first, no `..`; not `base` or `default`.",
        examples=["film-sentiment"],
    )
    store: str = Field("adapters", description="The store: `adapters/<name>/<version>/`.")
    runs: str = Field("runs", description="Where run folders go: `runs/<name>/<time>/`.")
    license: str | None = Field(
        None, description="Licence of the adapter, for its card (an SPDX identifier).", examples=["Apache-2.0"]
    )

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if name in ("base", "default"):
            raise ValueError(f"{name!r} is reserved; take another name")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) or ".." in name:
            raise ValueError(
                f"{name!r} is not a safe name; take 1 to 64 small letters, digits, '-', '_' and '.', "
                "with a letter or digit first and without '..'"
            )
        return name


class Recipe(Section):
    """One downstream task, complete."""

    task: TaskSection = Field(description="What is to be learned.")
    base: Base = Field(default_factory=Base, description="The frozen model.")
    data: Data = Field(description="The rows.")
    adapter: AdapterSection = Field(
        default_factory=lambda: Lora(method="lora"), discriminator="method", description="What is trained."
    )
    training: Training = Field(default_factory=Training, description="How it is trained.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How it is compared with the base.")
    output: Output = Field(description="Where it goes.")
    # NumPy takes no larger seed.
    seed: Whole = Field(0, ge=0, lt=2**32, description="Seed of everything random.")

    @field_validator("adapter")
    @classmethod
    def _has_something_to_train(cls, adapter: AdapterSection, info: ValidationInfo) -> AdapterSection:
        task = info.data.get("task")
        if isinstance(adapter, Head) and task is not None and not task.has_head:
            mend = "set `task.approach: head`, or take" if hasattr(task, "approach") else "take"
            raise ValueError(
                f"`method: head` trains the task's head alone, but this {task.type} is answered in words, without a "
                f"head: {mend} `method: lora`"
            )
        return adapter

    @field_validator("adapter")
    @classmethod
    def _works_on_the_base(cls, adapter: AdapterSection, info: ValidationInfo) -> AdapterSection:
        base = info.data.get("base")
        if base is not None and base.quantization in adapter.not_on:
            able = [word for word, kind in METHODS.items() if base.quantization not in kind.not_on]
            raise ValueError(
                f"`method: {adapter.method}` does not work with `base.quantization: {base.quantization}`; "
                f"{', '.join(able)} do"
            )
        return adapter

    @field_validator("adapter")
    @classmethod
    def _quantization_took_something(cls, adapter: AdapterSection, info: ValidationInfo) -> AdapterSection:
        base = info.data.get("base")
        if getattr(adapter, "init_lora_weights", "") == "loftq" and base is not None and base.quantization == "none":
            raise ValueError(
                "`init_lora_weights: loftq` begins with what quantization took away, and `base.quantization: none` "
                "takes nothing; set nf4, fp4 or int8 there, or another beginning here, such as pissa or corda"
            )
        return adapter

    @field_validator("data")
    @classmethod
    def _bins_name_the_labels(cls, data: Data, info: ValidationInfo) -> Data:
        # A validator of `data`, not of the whole: pydantic skips those of the whole when anything else is wrong.
        labels = getattr(info.data.get("task"), "labels", None)
        strangers = sorted(set(data.label_bins or ()) - set(labels or data.label_bins or ()))
        if strangers:
            raise ValueError(f"label_bins has {', '.join(map(repr, strangers))}, not among task.labels")
        return data
