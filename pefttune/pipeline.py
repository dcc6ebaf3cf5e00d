"""The straight line from a recipe to a stored adapter. Start reading here: `run`."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import data, store, tasks
from pefttune.data import Dataset, Example, Row
from pefttune.data.storage import storage_errors
from pefttune.errors import DataError, StorageError
from pefttune.recipe import Recipe, recipe_from_mapping, resolved_yaml

if TYPE_CHECKING:  # torch and its family take seconds to import, and bad data must be told before
    from torch import Tensor

    from pefttune.bases import Base
    from pefttune.evaluation import Comparison
    from pefttune.inference import Session
    from pefttune.training import TrainingLog

Notify = Callable[[dict[str, Any]], None]
ROWS_NAMED = 5


@dataclass(frozen=True)
class Run:
    """What a run leaves: the stored adapter's folder and manifest, the comparison, the folder with log and figure."""

    folder: Path
    manifest: dict[str, Any]
    comparison: Comparison
    run_folder: Path
    seconds: float


def run(recipe: Recipe, notify: Notify = lambda event: None) -> Run:
    """Train the adapter of `recipe`, compare it with its base, prove that it was saved right, store it.

    `notify` gets every event of the run as a JSON-able dict. Raises a PefttuneError; the store is then as it was.
    """
    started = time.perf_counter()
    name = store.check_name(recipe.output.name)
    task, rows = read_data(recipe)
    with store.staged(Path(recipe.output.store), name):
        pass  # a store that cannot be written to says so now, not when the training is over

    from pefttune import bases, evaluation, publishing

    run_folder, notify = _open_run(recipe, notify)
    notify({"event": "data", **asdict(rows.report)})
    base = bases.load(recipe.base)
    notify({"event": "base", **publishing.describe_base(base, recipe), "dtype_reason": base.dtype_reason})
    session = _session(recipe, base, task)
    log, cost = _fit(recipe, session, rows, run_folder, notify)
    comparison = _compare(recipe, session, name, rows.train, rows.test, notify)
    _report(run_folder, name, log, comparison, task.labels)
    manifest = publishing.describe(recipe, base, session[name], rows.report, comparison, cost)
    manifest["probe"] = evaluation.take_probe(session, name, rows.test)
    state, peft_config = session[name].state(), session[name].peft_config()
    del base, session  # the proof needs room for a fresh base
    gc.collect()
    folder = _save(recipe, manifest, state, peft_config, run_folder, notify)
    seconds = time.perf_counter() - started
    notify({"event": "stored", "name": name, "folder": str(folder), "seconds": seconds})
    return Run(folder, manifest, comparison, run_folder, seconds)


def read_data(recipe: Recipe) -> tuple[tasks.Task, Dataset]:
    """The recipe's task, its labels settled, and its rows, checked and split. Imports no torch. Raises DataError."""
    task = tasks.get(recipe.task)
    rows = data.load(recipe.data, task.columns, task.inputs, task.check)
    return task.with_labels_of(rows.train, (*rows.validation, *rows.test)), rows


def _open_run(recipe: Recipe, notify: Notify) -> tuple[Path, Notify]:
    """A new run folder with the resolved recipe in it, and a `notify` that logs there as well."""
    from pefttune import training

    run_folder = training.new_run_folder(Path(recipe.output.runs), recipe.output.name)
    with storage_errors(run_folder / "recipe.yaml"):
        (run_folder / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    return run_folder, training.logging_to(run_folder, notify)


def _session(recipe: Recipe, base: Base, task: tasks.Task) -> Session:
    """The base with the new adapter and its head, and itself to be asked zero-shot."""
    from accelerate.utils import set_seed

    from pefttune import methods
    from pefttune.inference import Loaded, Session

    session = Session(base)
    _add_zero_shot(session, task, recipe)
    encoder = task.encoder(base.tokenizer, recipe.data.max_length)
    set_seed(recipe.seed)
    adapter = methods.attach(base.model, recipe.adapter)
    session.add(recipe.output.name, Loaded(task, encoder, adapter, task.new_head(base.model)))
    return session


def _fit(
    recipe: Recipe, session: Session, rows: Dataset, run_folder: Path, notify: Notify
) -> tuple[TrainingLog, dict[str, Any]]:
    """Train the recipe's adapter in place; what happened, and what it cost."""
    from pefttune import batching, evaluation, training

    name, config = recipe.output.name, recipe.training
    ours = session[name]
    train = _encode(recipe, ours.encoder, rows.train, "training", notify)
    validation = _encode(recipe, ours.encoder, rows.validation, "validation", notify)
    if recipe.data.too_long == "error":  # said of test rows now, not when the training is over
        _encode(recipe, ours.encoder, rows.test, "test", notify)
    lengths = [len(example) for example in train]

    def loss(batch: batching.Batch) -> Tensor:
        return session.loss(name, batch)

    def evaluate() -> dict[str, Any]:
        return evaluation.score(session, name, rows.validation, config.per_device_eval_batch_size, validation).metrics

    work = training.Work(
        trainable=ours.parameters,
        plan=lambda epoch: batching.training_steps(
            lengths, config.per_device_train_batch_size, config.gradient_accumulation_steps, (recipe.seed, epoch)
        ),
        collate=lambda indices: session.collate([train[i] for i in indices], every_answer=False),
        loss=loss,
        train_mode=ours.train,
        evaluate=evaluate,
        primary=ours.task.primary,
        origins=lambda indices: [train[i].origin for i in indices],
        base_digest=session.base.digest,
    )
    base = session.base
    libraries_mib = training.resident_mib(base.device) - base.weight_bytes / training.MIB
    training.reset_peak(base.device)
    log = training.fit(work, config, run_folder, notify)
    trained_bytes = log.optimizer_bytes + 2 * sum(p.nbytes for p in ours.parameters.values())  # with gradients
    memory = training.MemorySplit(
        device=base.device.type,
        peak_mib=training.peak_mib(base.device),
        libraries_mib=libraries_mib,
        weights_mib=base.weight_bytes / training.MIB,
        adapter_and_optimizer_mib=trained_bytes / training.MIB,
    )
    cost = training.cost(log, memory)
    notify({"event": "memory", **cost["memory"]})
    return log, cost


def _encode(recipe: Recipe, encoder: tasks.Encoder, rows: Sequence[Row], what: str, notify: Notify) -> list[Example]:
    """The rows as examples. Texts that do not fit `max_length` are counted and told; raises DataError if so asked."""
    examples = [encoder(row) for row in rows]
    long = [example.origin for example in examples if example.truncated]
    if not long:
        return examples
    told = f"{len(long)} of {len(rows)} {what} rows do not fit data.max_length = {recipe.data.max_length} tokens"
    named = ", ".join(long[:ROWS_NAMED]) + (" …" if len(long) > ROWS_NAMED else "")
    if recipe.data.too_long == "error":
        raise DataError(f"{told}: {named}. Raise the limit, or set data.too_long to truncate or drop")
    dropped = recipe.data.too_long == "drop" and what == "training"
    notify({"event": "notice", "message": f"{told}; they {'are dropped' if dropped else 'lose their end'}: {named}"})
    kept = [example for example in examples if not (dropped and example.truncated)]
    if not kept:
        raise DataError(f"{told}, so none is left to train on. Raise the limit, or set data.too_long to truncate")
    return kept


def evaluate(
    name: str,
    store_folder: Path | str = "adapters",
    source: str | None = None,
    base_source: str | None = None,
    notify: Notify = lambda event: None,
) -> Comparison:
    """Compare a stored adapter with its base: on the test rows of its recipe, or on a labelled file `source`.

    `base_source` says where the base lies, if this machine has not seen it. Raises AdapterError, BaseError, DataError.
    """
    store_folder = Path(store_folder)
    manifest = store.read_manifest(store.find(store_folder, name))
    recipe = recipe_from_mapping(manifest["recipe"], where=f"{name}/{store.MANIFEST}")
    task = tasks.get(recipe.task).with_labels(manifest["labels"])
    if source is None:
        try:
            rows = data.load(recipe.data, task.columns, task.inputs, task.check)
        except DataError as error:  # a published recipe names a private file without its folder
            raise DataError(f"{error} Labelled rows can be given with --data FILE.") from None
        if rows.report.fingerprints["test"] != manifest["data"]["fingerprints"]["test"]:
            notify({"event": "notice", "message": "the data has changed: these are not the test rows of the training"})
        train, test = rows.train, rows.test
    else:
        train = test = data.load_file(source, recipe.data, task.columns, task.check)

    from pefttune.inference import open_session

    session = open_session(name, store_folder, base_source)
    _add_zero_shot(session, task, recipe)
    return _compare(recipe, session, name, train, test, notify)


def _add_zero_shot(session: Session, task: tasks.Task, recipe: Recipe) -> None:
    """Put the base itself into the session, asked to do the task. Raises BaseError or DataError where it cannot be."""
    from pefttune.inference import Loaded

    asked = task.zero_shot()
    session.add("base", Loaded(asked, asked.encoder(session.base.tokenizer, recipe.data.max_length)))


def _compare(
    recipe: Recipe, session: Session, name: str, train: Sequence[Row], test: Sequence[Row], notify: Notify
) -> Comparison:
    """Base and adapter on the same test rows; `train` says which label is the commonest."""
    from pefttune import evaluation

    def scored(who: str, examples: list[Example]) -> evaluation.Scored:
        def progress(done: int) -> None:
            notify({"event": "scoring", "what": who, "done": done, "of": len(test)})

        return evaluation.score(session, who, test, recipe.training.per_device_eval_batch_size, examples, progress)

    base = scored("base", [session["base"].encoder(row) for row in test])
    adapter = scored(name, _encode(recipe, session[name].encoder, test, "test", notify))
    settings = recipe.evaluation
    comparison = evaluation.compare(
        base, adapter, train, settings.bootstrap_samples, settings.confidence_level, recipe.seed
    )
    notify({"event": "comparison", **comparison.summary()})
    return comparison


def _report(run_folder: Path, name: str, log: TrainingLog, comparison: Comparison, labels: Sequence[str]) -> None:
    """The comparison with its rows, and the figure, in the run folder. Raises StorageError."""
    from pefttune import evaluation

    text = json.dumps(asdict(comparison), indent=1, ensure_ascii=False)
    try:
        (run_folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        evaluation.draw(run_folder / "figure.png", name, log.steps, log.evaluations, comparison, labels)
    except OSError as error:
        raise StorageError(
            f"{run_folder} cannot be written to: {error.strerror or error}; the store is untouched"
        ) from None


def _save(
    recipe: Recipe,
    manifest: dict[str, Any],
    state: Mapping[str, Tensor],
    peft_config: Mapping[str, Any],
    run_folder: Path,
    notify: Notify,
) -> Path:
    """Stage the adapter's folder, read it back into a fresh base, compare, and only then make it a version."""
    from pefttune import bases, evaluation, methods, publishing
    from pefttune.inference import Session

    name, base = recipe.output.name, manifest["base"]
    with store.staged(Path(recipe.output.store), name) as staging:
        methods.weights.write(staging, peft_config, state, base["hub_id"] or base["origin"], base["revision"])
        shutil.copyfile(run_folder / "figure.png", staging / "figure.png")
        (staging / "README.md").write_text(publishing.render_card(manifest), encoding="utf-8")
        store.write_manifest(staging, manifest)
        notify({"event": "verifying", "rows": len(manifest["probe"]["texts"])})
        # In the dtype it was trained in: measured anew, another one may win on a busy machine.
        again = recipe.base.model_copy(update={"dtype": base["dtype"]})
        session = Session(bases.load(again, origin=base["origin"]))
        session.load(staging, name=name)
        evaluation.verify(session, name, manifest["probe"])
        return store.commit(staging)
