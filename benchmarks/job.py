"""What a program is told and what it tells back: two JSON files, the same for everybody."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Example:
    """One row as tokens: the candidate answers (none for a head) and the index of the right one, or of the class."""

    prompt: list[int]
    answers: list[list[int]]
    target: int

    @property
    def answer(self) -> list[int]:
        """The tokens to be learned; none for a head."""
        return self.answers[self.target] if self.answers else []

    def __len__(self) -> int:
        """Tokens that training reads, without padding."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class BaseChoice:
    """A folder that transformers reads, and how its weights are kept."""

    folder: str
    quantization: str = "nf4"
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class LoraChoice:
    """LoRA on every linear layer below the output layer, of all layers or of `layers`."""

    r: int = 16
    alpha: int = 32
    layers: list[int] | None = None


@dataclass(frozen=True)
class Job:
    """Everything a program needs; token ids included, so that nobody tokenizes on his own."""

    workload: str
    base: BaseChoice
    examples: list[Example]
    steps: list[list[int]]
    """Indices into `examples`, one list for each optimizer step. Empty where nothing is trained."""
    lora: LoraChoice = LoraChoice()
    warmup: int = 0
    """How many of the steps are warm-up, not timed."""
    classes: int = 0
    """Classes of the head; 0 for the language model's own output layer."""
    learning_rate: float = 5e-4
    max_grad_norm: float = 1.0
    seed: int = 0
    threads: int = 2
    batch_size: int = 32
    """Rows at once where answers are scored."""
    adapter: str | None = None
    """An adapter's folder, where answers are scored."""
    save_every: int = 0
    """Optimizer steps between saved adapters, `save_folder`/STEP; saving is not timed."""
    save_folder: str = ""
    judged: list[int] = field(default_factory=list)
    """Indices of examples whose classes are scored when the training is over; not timed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What distinguishes the variants of one program."""

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job that `write` wrote."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["base"], raw["lora"] = BaseChoice(**raw["base"]), LoraChoice(**raw["lora"])
        raw["examples"] = [Example(**example) for example in raw["examples"]]
        return cls(**raw)

    def examples_of(self, step: int) -> list[Example]:
        """The examples of one optimizer step."""
        return [self.examples[index] for index in self.steps[step]]


@dataclass(frozen=True)
class Result:
    """What a program measured; lists have one entry for each optimizer step, warm-up included."""

    seconds: list[float]
    resident_before_mib: float
    peak_mib: float
    versions: dict[str, str]
    losses: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Positions that went through the model, padding included."""
    labelled: list[int] = field(default_factory=list)
    """Positions that the loss was taken of."""
    scores: list[list[float]] = field(default_factory=list)
    """Log-likelihood of every answer of every example, where answers are scored; or of every class of those judged."""
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Result:
        """The result that a program wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
