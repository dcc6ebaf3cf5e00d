"""The workloads: which examples go into which optimizer step. Each gives a `Job`, token ids included."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice, Example, Job, LoraChoice
from pefttune import bases, pipeline, tasks
from pefttune.data import Example as Encoded
from pefttune.data import Row
from pefttune.recipe import load_recipe
from pefttune.recipe import tasks as sections

BASE = "smollm2-135m-instruct"
INSTRUCTION = "Classify the sentiment: positive or negative."
LABELS = ("negative", "positive")
LONGEST = 512
FILM = Path(__file__).resolve().parents[1] / "recipes" / "film-sentiment.yaml"


@dataclass(frozen=True)
class Size:
    """How much of a workload: optimizer steps that are warm-up, timed steps, and rows a step (None: the usual)."""

    warmup: int = 2
    steps: int = 6
    rows: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Workload:
    """A named source of examples, and the usual number of rows in an optimizer step."""

    examples: Callable[[Any, Path | None], list[Example]]
    rows: int
    classes: int = 0
    layers: tuple[int, ...] | None = None
    epochs: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What ours is told; a peer that is ours as well may be told otherwise."""

    def job(self, name: str, size: Size, data: Path | None, threads: int) -> Job:
        """The job of this workload on the usual base. Raises BenchmarkError when data is missing or too little."""
        folder = base_folder()
        examples = self.examples(tokenizer_of(folder), data)
        rows = size.rows or self.rows
        count = (size.warmup + size.steps) * rows
        if len(examples) < count:
            raise BenchmarkError(f"{name} has {len(examples)} examples; {size.warmup + size.steps} steps need {count}")
        chosen = random.Random(size.seed).sample(examples, count)
        steps = [list(range(start, start + rows)) for start in range(0, count, rows)] * self.epochs
        return Job(
            name,
            BaseChoice(str(folder)),
            chosen,
            steps,
            LoraChoice(layers=None if self.layers is None else list(self.layers)),
            warmup=0 if self.epochs > 1 else size.warmup,  # several epochs are timed whole: the first one fills a cache
            classes=self.classes,
            seed=size.seed,
            threads=threads,
            settings=dict(self.settings),
        )


def base_folder() -> Path:
    """The folder of the usual base, fetched if need be."""
    return bases.locate(BASE).folder


def tokenizer_of(folder: Path) -> Any:
    """The base's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def sst2(
    tokenizer: Any,
    data: Path | None,
    part: str = "train",
    instruction: str = INSTRUCTION,
    approach: Literal["label-words", "head"] = "label-words",
    causal: bool = True,
) -> list[Example]:
    """Sentences of the Stanford Sentiment Treebank, classified by label words or by a head."""
    with data_file(data, f"sst2/{part}.tsv").open(encoding="utf-8", newline="") as file:
        pairs = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [Row({"text": text, "label": LABELS[int(label)]}, f"{part}:{n}") for n, (text, label) in enumerate(pairs, 1)]
    section = sections.TextClassification(
        type="text-classification",
        approach=approach,
        labels=LABELS,
        instruction=instruction,
    )
    encoder = tasks.get(section).encoder(tokenizer, LONGEST, causal=causal)
    return [_example(example) for row in rows for example in encoder(row)]


def head(tokenizer: Any, data: Path | None) -> list[Example]:
    """The same sentences for a classification head: the bare text."""
    return sst2(tokenizer, data, approach="head")


def film(tokenizer: Any, data: Path | None) -> list[Example]:
    """Film reviews by the shipped recipe, as `pefttune train film-sentiment` reads them."""
    recipe = load_recipe(FILM)
    task, rows = pipeline.read_data(recipe)
    encoder = task.encoder(tokenizer, recipe.data.max_length, causal=True)
    return [_example(example) for row in rows.train for example in encoder(row)]


def scitldr(tokenizer: Any, data: Path | None) -> list[Example]:
    """Abstracts to one sentence. The end of a long abstract is left out, so that prompt and answer have 512 tokens."""
    lines = data_file(data, "scitldr/train.jsonl").read_text(encoding="utf-8").splitlines()
    system = "Summarize the abstract in one sentence."
    examples = []
    for line in lines:
        row = json.loads(line)
        answer = answer_tokens(tokenizer, row["target"][0])
        abstract = " ".join(row["source"])
        while len(prompt := prompt_tokens(tokenizer, abstract, system)) + len(answer) > LONGEST:
            surplus = len(prompt) + len(answer) - LONGEST
            abstract = tokenizer.decode(tokenizer(abstract)["input_ids"][:-surplus])
        examples.append(Example(prompt, [answer], 0))
    return examples


def chat(tokenizer: Any, data: Path | None) -> list[Example]:
    """Instructions to answers, lengths as they come."""
    rows = json.loads(data_file(data, "instruction/instruction-data.json").read_text(encoding="utf-8"))
    return [
        Example(
            prompt_tokens(tokenizer, "\n".join(filter(None, (row["instruction"], row["input"])))),
            [answer_tokens(tokenizer, row["output"])],
            0,
        )
        for row in rows
    ]


def prompt_tokens(tokenizer: Any, user: str, system: str | None = None) -> list[int]:
    """A conversation up to where the answer begins."""
    messages = [{"role": "system", "content": system}] if system else []
    text = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
    )
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def answer_tokens(tokenizer: Any, text: str) -> list[int]:
    """The answer and the end of the turn."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def label_likelihood(data: Path | None, sentences: int, threads: int, part: str = "test", warmup: int = 1) -> Job:
    """Score both labels for so many sentences of the treebank; nothing is trained."""
    folder = base_folder()
    examples = sst2(tokenizer_of(folder), data, part)[:sentences]
    return Job("label-likelihood", BaseChoice(str(folder)), examples, [], warmup=warmup, threads=threads)


def data_file(data: Path | None, name: str) -> Path:
    """A file of the data folder. Raises BenchmarkError with what to do when it is not there."""
    if data is None:
        raise BenchmarkError(f"{name} does not come along: give its folder as --data FOLDER or in PEFTTUNE_DATA")
    if not (path := data / name).is_file():
        raise BenchmarkError(f"{path} does not exist; --data (or PEFTTUNE_DATA) must be the folder that holds {name}")
    return path


def find(name: str) -> Workload:
    """The workload of that name. Raises BenchmarkError when there is none."""
    if name not in WORKLOADS:
        raise BenchmarkError(f"there is no workload {name!r}; there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def _example(encoded: Encoded) -> Example:
    target = encoded.target if encoded.answers else int(encoded.marks[0][1])
    if target is None:
        raise BenchmarkError(f"{encoded.origin} has no label")
    return Example(list(encoded.prompt), list(map(list, encoded.answers)), target)


WORKLOADS = {
    "sst2": Workload(sst2, 16),
    "film": Workload(film, 16),
    "scitldr": Workload(scitldr, 8),
    "chat": Workload(chat, 16),
    "head": Workload(head, 16, classes=len(LABELS)),
    "top8-cache": Workload(sst2, 16, layers=tuple(range(22, 30)), epochs=3, settings={"cached": True}),
    "together8": Workload(sst2, 16, settings={"adapters": 8}),
}
