"""The sweep: try variants of a recipe for some of their steps, go on with the best, name the winner. Start reading
here: `sweep`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.data.storage import replacing, storage_errors
from pefttune.errors import InputError, TrainingError
from pefttune.pipeline import Bench, Failed, Tried, check_comparable
from pefttune.recipe import Recipe, Variant, resolved_yaml, to_mapping
from pefttune.sweep.figure import draw
from pefttune.sweep.halving import Rung, rungs, shortened
from pefttune.sweep.progress import Progress
from pefttune.sweep.searchers import Searcher
from pefttune.sweep.table import markdown
from pefttune.sweep.trial import Records, Trial

if TYPE_CHECKING:
    from pefttune.training import Notify

Train = Callable[[Sequence[Recipe], "Notify"], Iterator[Mapping[str, Tried | Failed]]]
"""Trains recipes, and gives what came of them by the names of their adapters, some at a time."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep leaves: its folder, by what trials were judged, and the trials, the best first."""

    folder: Path
    metric: str
    validation_rows: int
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The winner."""
        return self.trials[0]

    @property
    def recipe(self) -> Path:
        """The winner's recipe, resolved."""
        return self.folder / "best.yaml"

    def told(self) -> dict[str, Any]:
        """As JSON can hold it."""
        own = {"metric": self.metric, "validation_rows": self.validation_rows, "best": self.best.number}
        return own | {"trials": [trial.told() for trial in self.trials]}


def sweep(
    variants: Sequence[Variant],
    searcher: Searcher,
    notify: Notify = lambda event: None,
    *,
    apart: bool = False,
    train: Train | None = None,
) -> Sweep:
    """Find the best of the `variants` that the `searcher` proposes, by successive halving on their validation rows.

    Trials share passes through the base unless each is to be trained `apart`, or `train` trains them elsewhere, each
    alone. What came of a trial is kept in the sweep's folder, which belongs to these variants and their data: the same
    sweep again goes on where it stopped. A trial that fails is told and dropped. Raises a PefttuneError, TrainingError
    when all have failed.
    """
    apart = apart or train is not None
    bench = Bench(apart=apart)
    metric, validation_rows = check_comparable(bench, [variant.recipe for variant in variants])
    report = bench.read(variants[0].recipe)[1].report
    folder = _folder(variants, report.fingerprints, apart=apart)
    records = Records(folder / "trials.jsonl")
    notify({"event": "data", **asdict(report)})

    from pefttune import training

    progress = Progress(searcher.sizes, metric, notify)
    climb = partial(_climb, train=train or bench.train, records=records, progress=progress)
    log = training.logging_to(folder, progress)
    settled = partial(_settled, dtypes={} if train else _dtypes(folder / "dtypes.json", variants))
    trials: list[Trial] = []
    for size in searcher.sizes:
        proposed = [Trial(len(trials) + i, settled(variant)) for i, variant in enumerate(searcher.ask(size), start=1)]
        _halve(proposed, partial(climb, notify=log))
        searcher.tell(proposed)
        trials += proposed
    trials.sort(key=lambda trial: trial.place)
    if isinstance(trials[0].last, Failed):
        told = "\n".join(f"{trial.variant}: {trial.last.reason}" for trial in trials if isinstance(trial.last, Failed))
        raise TrainingError(f"all {len(trials)} trials have failed\n{told}")
    found = Sweep(folder, metric, validation_rows, tuple(trials))
    _write(found)
    return found


def _folder(variants: Sequence[Variant], rows: Mapping[str, str], *, apart: bool) -> Path:
    """That of a sweep of these variants on these rows."""
    identity = {
        "version": importlib.metadata.version("pefttune"),
        "variants": [to_mapping(variant.recipe) for variant in variants],
        "rows": [rows["train"], rows["validation"]],
        "apart": apart,  # what a trial costs is another thing then
    }
    output = variants[0].recipe.output
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path(output.runs) / output.name / f"sweep-{digest[:12]}"


def _dtypes(path: Path, variants: Sequence[Variant]) -> dict[str, str]:
    """What `base.dtype: auto` comes to on each device that the variants name. It is measured once and kept, for trials
    must be alike, and on a busy machine another dtype may win the next time."""
    from pefttune.bases.machine import choose_device, choose_dtype

    if path.exists():
        try:
            with storage_errors(path):
                return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise InputError(f"{path} holds no dtypes; remove {path.parent} to begin anew") from None
    devices = {variant.recipe.base.device for variant in variants if variant.recipe.base.dtype == "auto"}
    dtypes: dict[str, str] = {
        each: str(choose_dtype("auto", choose_device(each))[0]).removeprefix("torch.") for each in sorted(devices)
    }
    with replacing(path) as file:
        file.write(json.dumps(dtypes).encode())
    return dtypes


def _settled(variant: Variant, dtypes: Mapping[str, str]) -> Variant:
    """The variant with that dtype instead of `auto`, where its device has one."""
    base = variant.recipe.base
    if base.dtype != "auto" or base.device not in dtypes:
        return variant
    fixed = base.model_copy(update={"dtype": dtypes[base.device]})
    return replace(variant, recipe=variant.recipe.model_copy(update={"base": fixed}))


def _halve(trials: Sequence[Trial], climb: Callable[[Sequence[Trial], Rung], None]) -> None:
    """Train all for some of their steps, the better ones for more."""
    going = list(trials)
    for rung in rungs(len(trials)):
        going = going[: rung.trials]
        climb(going, rung)
        going = sorted((trial for trial in going if isinstance(trial.last, Tried)), key=lambda trial: trial.place)


def _climb(
    trials: Sequence[Trial], rung: Rung, train: Train, records: Records, progress: Progress, notify: Notify
) -> None:
    """Give each trial its result of the rung, known or by training."""
    progress.begin(rung, len(trials))
    waiting = {}
    for trial in trials:
        known = records.find(trial.variant, rung.share)
        if known is None:
            waiting[trial.name] = trial
        else:
            trial.results[rung.share] = known
            progress.over([trial])
    recipes = [shortened(trial.variant.recipe, rung.share, name) for name, trial in waiting.items()]
    for results in train(recipes, notify) if recipes else ():
        done = [waiting[name] for name in results]
        for trial, result in zip(done, results.values(), strict=True):
            trial.results[rung.share] = result
        records.keep(done)
        progress.over(done)


def _write(found: Sweep) -> None:
    """The trials as JSON, table and figure, and the winner's recipe. Raises StorageError."""
    for path, text in {
        found.folder / "sweep.json": json.dumps(found.told(), indent=1, ensure_ascii=False) + "\n",
        found.folder / "table.md": markdown(found.metric, found.trials),
        found.recipe: resolved_yaml(found.best.variant.recipe),
    }.items():
        with replacing(path) as file:
            file.write(text.encode())
    with storage_errors(found.folder / "figure.png"):
        draw(found.folder / "figure.png", found.metric, found.trials)
