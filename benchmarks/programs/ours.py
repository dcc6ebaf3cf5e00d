"""pefttune by its session and its loop, as `pefttune.pipeline` uses them. The one file here that knows its parts."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from pydantic import TypeAdapter

from benchmarks.job import Job, Result
from pefttune import bases, batching, data, methods, tasks, training
from pefttune.inference import Loaded, Session, boundary_of
from pefttune.recipe import schema
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import AdapterSection, Lora

PACKAGES = ("pefttune", "torch", "transformers", "peft", "accelerate", "bitsandbytes")
NAME = "benchmark"
LONGEST = 4096


def open_session(job: Job) -> Session:
    """The base with as many fresh adapters as the job asks for, with a head each if it has classes; without adapter
    where nothing is trained."""
    base = bases.load(schema.Base(source=job.base.folder, quantization=job.base.quantization, dtype=job.base.dtype))
    labels = tuple(map(str, range(max(2, job.classes, *(len(example.answers) for example in job.examples)))))
    section = sections.TextClassification(
        type="text-classification", approach="head" if job.classes else "label-words", labels=labels
    )
    task = tasks.get(section)
    session = Session(base, job.settings.get("max_batch_tokens"))
    encoder = task.encoder(base.tokenizer, LONGEST, causal=session.causal)
    if not (job.steps or job.judged):
        session.add(NAME, Loaded(task, encoder, LONGEST))
        _add_saved(job, session, task)
        return session
    layers = None if job.lora.layers is None else tuple(job.lora.layers)
    lora = {"method": "lora", "r": job.lora.r, "lora_alpha": job.lora.alpha, "layers": layers}
    config = TypeAdapter(AdapterSection).validate_python(job.settings.get("ours", lora))
    set_seed(job.seed)
    head = task.new_head(base.model, causal=session.causal)
    if head is not None:
        generator = torch.Generator().manual_seed(job.seed)  # the same head for everybody
        weight = head.linear.weight
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * base.model.config.initializer_range)
    for name in names(job):
        session.add(name, Loaded(task, encoder, LONGEST, methods.attach(base.model, config), head))
    return session


def _add_saved(job: Job, session: Session, task: tasks.Task) -> None:
    """The adapters in the folders of the job, if it has any."""
    config = Lora(method="lora", r=job.lora.r, lora_alpha=job.lora.alpha)
    for folder in job.settings.get("adapters", []):
        loaded = session.add(folder, session.attach(task, config, LONGEST))
        loaded.load_state(methods.weights.read(Path(folder), loaded.parameters))


def names(job: Job) -> list[str]:
    """One adapter, or several that share each step's examples among them."""
    count = job.settings.get("adapters", 1)
    return [NAME] if count == 1 else [f"{NAME}-{number}" for number in range(count)]


def examples_of(job: Job, *, causal: bool = True) -> list[data.Example]:
    """The job's examples as pefttune has them. A head reads the last token of a decoder, the first of an encoder."""
    return [
        data.Example(
            tuple(e.prompt),
            tuple(map(tuple, e.answers)),
            e.target,
            f"example {number}",
            marks=() if e.answers else ((len(e.prompt) - 1 if causal else 0, -100 if e.target is None else e.target),),
        )
        for number, e in enumerate(job.examples)
    ]


def step_loss(session: Session, examples: list[data.Example]) -> tuple[torch.Tensor, int, int]:
    """The mean loss of a step's examples, to be differentiated; labelled positions; positions computed."""
    batch = session.collator.collate(examples, every_answer=False)
    return session.loss(NAME, batch) / batch.n_scored, batch.n_scored, batch.ids_BT.numel()


def train(job: Job, session: Session, folder: Path) -> dict[str, Any]:
    """Run the job's steps by pefttune's loop; what was measured of each, the interval between the ends of steps.

    Several adapters learn together, or with `together: false` one after the other: a step then takes what that step
    took of each.
    """
    examples = examples_of(job, causal=session.causal)
    clock = Clock(session.base.device)
    session.collator.try_ragged(examples)
    works = [_work(job, session, name, examples, folder, clock) for name in names(job)]
    groups = [works] if job.settings.get("together", True) else [[work] for work in works]
    for group in groups:
        clock.start(group[-1].name)
        logs = training.fit(group, session.losses, session.base.digest, session.max_batch_tokens)
    return {
        "seconds": clock.seconds,
        "losses": [record["loss"] for record in logs[-1].steps],
        "positions": [clock.positions[step] for step in range(len(job.steps))],
        "labelled": [clock.labelled[step] for step in range(len(job.steps))],
        "scores": judge(job, session),
        "settings": job.settings | {"parameters": sum(p.numel() for p in session[names(job)[0]].parameters.values())},
    }


def judge(job: Job, session: Session) -> list[list[float]]:
    """Log-probabilities of the classes of each judged example."""
    examples = examples_of(job, causal=session.causal)
    return [each.tolist() for each in session.scores(names(job)[0], [examples[index] for index in job.judged])]


class Clock:
    """Seconds of each step, from the end of the one before; what lies before the first step counts to it."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self.positions: Counter[int] = Counter()
        self.labelled: Counter[int] = Counter()
        self._device = device
        self._mark = time.perf_counter()
        self._step = 0
        self._last = ""

    def start(self, last: str) -> None:
        """Begin with the first step anew; a step is over when the adapter `last` has made it."""
        self._step, self._last = 0, last

    def batch(self, step: int, batch: batching.Batch) -> None:
        """Count what a step computes."""
        self.positions[step] += batch.ids_BT.numel()
        self.labelled[step] += batch.n_scored

    def tick(self, name: str, after: Callable[[int], None]) -> None:
        """The end of an adapter's step; `after` is not timed."""
        if name == self._last:
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            interval = time.perf_counter() - self._mark
            if self._step < len(self.seconds):
                self.seconds[self._step] += interval
            else:
                self.seconds.append(interval)
            self._step += 1
        after(self._step)
        self._mark = time.perf_counter() if name == self._last else self._mark


def _work(
    job: Job, session: Session, name: str, examples: list[data.Example], folder: Path, clock: Clock
) -> training.Work:
    ours, number, count = session[name], names(job).index(name), len(names(job))
    steps = [step[number::count] for step in job.steps]
    boundary = _boundary(job, session, name, examples, folder)

    def collate(step: int, indices: Sequence[int]) -> batching.Batch:
        batch = session.collator.batch(examples, indices, boundary, every_answer=False)
        clock.batch(step, batch)
        return batch

    def plan(epoch: int) -> list[list[list[int]]]:
        return batching.steps_of(examples, steps, session.max_batch_tokens, ragged=bool(session.collator.ragged))

    def notify(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            clock.tick(name, lambda step: _save_if_due(job, session, step))

    order = iter([step for step, batches in enumerate(plan(0)) for _ in batches])
    return training.Work(
        name=name,
        trainable=ours.parameters,
        plan=plan,
        collate=lambda indices: collate(next(order), indices),
        train_mode=ours.train,
        evaluate=lambda: {"accuracy": 0.0},  # the benchmark judges on its own, later
        watched="accuracy",
        origins=lambda indices: [examples[index].origin for index in indices],
        config=_settings(job),
        run_folder=folder,
        notify=notify,
    )


def _boundary(
    job: Job, session: Session, name: str, examples: list[data.Example], folder: Path
) -> batching.Boundary | batching.Outputs | None:
    """The states of the frozen layers, in a cache of its own, so that filling it counts."""
    if not job.settings.get("cached"):
        return None
    os.environ["PEFTTUNE_CACHE"] = str(folder)
    return boundary_of(session, name, examples, every_answer=False, notice=print)


def _settings(job: Job) -> schema.Training:
    return schema.Training(
        max_steps=len(job.steps),
        eval_steps=len(job.steps),
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=job.max_grad_norm,
        load_best_model_at_end=False,
    )


def _save_if_due(job: Job, session: Session, step: int) -> None:
    if job.save_every and step % job.save_every == 0:
        save(session, Path(job.save_folder) / str(step))


def save(session: Session, folder: Path) -> None:
    """The adapter as PEFT reads it."""
    folder.mkdir(parents=True)
    methods.weights.write(folder, session[NAME].peft_config(), session[NAME].state(), "base", None)


def score(job: Job, session: Session) -> dict[str, Any]:
    """Score every answer of the job's examples, one timed pass after `warmup` passes over a part of them."""
    whose = cycle(job.settings.get("adapters", [NAME]))
    asked = list(zip(whose, examples_of(job), strict=False))
    for _ in range(job.warmup):
        session.mixed_scores(asked[: job.batch_size])
    start = time.perf_counter()
    scores = session.mixed_scores(asked)
    return {"seconds": [time.perf_counter() - start], "scores": [each.tolist() for each in scores]}


def _measured(job: Job, session: Session, folder: Path) -> dict[str, Any]:
    if job.steps:
        return train(job, session, folder)
    if job.judged:
        return {"seconds": [], "scores": judge(job, session)}
    return score(job, session)


def main() -> None:
    """Do the job of the first argument, write the result of the second."""
    job = Job.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    session = open_session(job)
    device = session.base.device
    training.reset_peak(device)
    before = training.resident_mib(device)
    with tempfile.TemporaryDirectory() as folder:
        measured = _measured(job, session, Path(folder))
    versions = {name: version(name) for name in PACKAGES}
    result = Result(resident_before_mib=before, peak_mib=training.peak_mib(device), versions=versions, **measured)
    Path(sys.argv[2]).write_text(json.dumps(asdict(result)), encoding="utf-8")


if __name__ == "__main__":
    main()
