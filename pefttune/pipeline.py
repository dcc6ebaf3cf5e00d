"""The straight line from a recipe to a stored adapter. Start reading here: `run`."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import data, store, tasks
from pefttune.data import Dataset, Example, Row
from pefttune.data.storage import storage_errors
from pefttune.errors import DataError, RecipeError, StorageError
from pefttune.recipe import Recipe, recipe_from_mapping, resolved_yaml

if TYPE_CHECKING:  # torch and its family take seconds to import, and bad data must be told before
    from torch import Tensor

    from pefttune.evaluation import Comparison
    from pefttune.inference import Session
    from pefttune.training import TrainingLog, Work

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


@dataclass(frozen=True)
class _Line:
    """One recipe on its way: its task and rows, and where its events and files go."""

    recipe: Recipe
    task: tasks.Task
    rows: Dataset
    run_folder: Path
    notify: Notify

    @property
    def name(self) -> str:
        return self.recipe.output.name


@dataclass(frozen=True)
class _Trained:
    """What is left of a line when base and session are gone."""

    line: _Line
    manifest: dict[str, Any]
    comparison: Comparison
    state: Mapping[str, Tensor]
    peft_config: Mapping[str, Any]


def run(recipe: Recipe, notify: Notify = lambda event: None) -> Run:
    """Train the adapter of `recipe`, compare it with its base, prove that it was saved right, store it.

    `notify` gets every event of the run as a JSON-able dict. Raises a PefttuneError; the store is then as it was.
    """
    return run_together([recipe], notify)[0]


def run_together(recipes: Sequence[Recipe], notify: Notify = lambda event: None) -> list[Run]:
    """Train the adapters of several recipes on one resident base, in one forward and backward pass for all of them.

    Each has its own data, settings, evaluations and end, and (but for the chance in dropout) the gradients it would
    have alone. With several, each event says by `run` whose it is. Raises a PefttuneError, RecipeError for recipes that
    do not fit together; nothing is stored then.
    """
    started = time.perf_counter()
    _check_together(recipes)
    lines = [_begin(recipe, notify, named=len(recipes) > 1) for recipe in recipes]

    from pefttune import bases, evaluation, publishing
    from pefttune.inference import Session

    base = bases.load(recipes[0].base)
    session = Session(base, recipes[0].training.max_batch_tokens)
    for line in lines:
        told = publishing.describe_base(base, line.recipe)
        line.notify({"event": "base", **told, "dtype_reason": base.dtype_reason, "dense": base.dense})
        _attach(session, line)
    trained = []
    for line, (log, cost) in zip(lines, _fit(session, lines), strict=True):
        comparison = _compare(session, line.recipe, line.rows.train, line.rows.test, line.notify)
        _report(line, log, comparison, session[line.name].task.labels)
        manifest = publishing.describe(line.recipe, base, session[line.name], line.rows.report, comparison, cost)
        manifest["probe"] = evaluation.take_probe(session, line.name, line.rows.test)
        ours = session[line.name]
        trained.append(_Trained(line, manifest, comparison, ours.state(), ours.peft_config()))
    del base, session  # the proof needs room for a fresh base
    gc.collect()
    folders = _save(trained)
    seconds = time.perf_counter() - started
    for one, folder in zip(trained, folders, strict=True):
        one.line.notify({"event": "stored", "name": one.line.name, "folder": str(folder), "seconds": seconds})
    return [
        Run(folder, one.manifest, one.comparison, one.line.run_folder, seconds)
        for one, folder in zip(trained, folders, strict=True)
    ]


def _check_together(recipes: Sequence[Recipe]) -> None:
    if not recipes:
        raise RecipeError("no recipe was given; name at least one")
    names = [store.check_name(recipe.output.name) for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"two of the recipes make an adapter {twice[0]!r}: give each its own output.name")
    for recipe in recipes[1:]:
        if recipe.base != recipes[0].base:
            raise RecipeError(
                f"{recipe.output.name} and {names[0]} have different `base` sections; together they need the same"
            )
        if recipe.training.max_batch_tokens != recipes[0].training.max_batch_tokens:
            raise RecipeError(
                f"{recipe.output.name} and {names[0]} have different training.max_batch_tokens; they share batches"
            )
    if trackers := [name for recipe in recipes[1:] for name in recipe.training.report_to if name != "tensorboard"]:
        raise RecipeError(f"training.report_to: {trackers[0]} holds one run in a process; together, use tensorboard")


def read_data(recipe: Recipe) -> tuple[tasks.Task, Dataset]:
    """The recipe's task, its labels settled, and its rows, checked and split. Imports no torch. Raises DataError."""
    task = tasks.get(recipe.task)
    rows = data.load(recipe.data, task.columns, task.inputs, task.check)
    return task.with_labels_of(rows.train, (*rows.validation, *rows.test)), rows


def _begin(recipe: Recipe, notify: Notify, *, named: bool) -> _Line:
    """Data read and checked, the store tried, a run folder opened with the resolved recipe in it."""
    task, rows = read_data(recipe)
    with store.staged(Path(recipe.output.store), recipe.output.name):
        pass  # a store that cannot be written to says so now, not when the training is over

    from pefttune import training

    run_folder = training.new_run_folder(Path(recipe.output.runs), recipe.output.name)
    with storage_errors(run_folder / "recipe.yaml"):
        (run_folder / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    label = {"run": recipe.output.name} if named else {}
    logged = training.logging_to(run_folder, lambda event: notify({**event, **label}))
    logged({"event": "data", **asdict(rows.report)})
    return _Line(recipe, task, rows, run_folder, logged)


def _attach(session: Session, line: _Line) -> None:
    """Put the new adapter and its head into the session, and the base itself, to be asked zero-shot."""
    from accelerate.utils import set_seed

    from pefttune import methods
    from pefttune.inference import Loaded

    base, recipe, task = session.base, line.recipe, line.task
    _add_zero_shot(session, task, recipe)
    encoder = task.encoder(base.tokenizer, recipe.data.max_length)
    set_seed(recipe.seed)
    adapter = methods.attach(base.model, recipe.adapter)
    session.add(line.name, Loaded(task, encoder, adapter, task.new_head(base.model)))


def _fit(session: Session, lines: Sequence[_Line]) -> list[tuple[TrainingLog, dict[str, Any]]]:
    """Train the adapters in place; for each, what happened and what it cost."""
    from pefttune import training

    base = session.base
    libraries_mib = training.resident_mib(base.device) - base.weight_bytes / training.MIB
    encoded = [_encoded(session, line) for line in lines]  # all before any: one of them may need padded batches
    works = [_work(session, line, *rows) for line, rows in zip(lines, encoded, strict=True)]
    training.reset_peak(base.device)
    logs = training.fit(works, session.losses, base.digest, session.max_batch_tokens)
    peak_mib = training.peak_mib(base.device)
    parameters = sum(p.nbytes for line in lines for p in session[line.name].parameters.values())
    trained_bytes = sum(log.optimizer_bytes for log in logs) + 2 * parameters  # with gradients
    memory = training.MemorySplit(
        device=base.device.type,
        peak_mib=peak_mib,
        libraries_mib=libraries_mib,
        weights_mib=base.weight_bytes / training.MIB,
        adapter_and_optimizer_mib=trained_bytes / training.MIB,
    )
    costs = [training.cost(log, memory) for log in logs]
    for line, cost in zip(lines, costs, strict=True):
        line.notify({"event": "memory", **cost["memory"]})
    return list(zip(logs, costs, strict=True))


def _encoded(session: Session, line: _Line) -> tuple[list[Example], list[Example]]:
    """Training and validation rows as examples. Told: rows that are too long, and whether batches can be ragged."""
    recipe, rows, encoder = line.recipe, line.rows, session[line.name].encoder
    train = _encode(recipe, encoder, rows.train, "training", line.notify)
    validation = _encode(recipe, encoder, rows.validation, "validation", line.notify)
    if recipe.data.too_long == "error":  # said of test rows now, not when the training is over
        _encode(recipe, encoder, rows.test, "test", line.notify)
    _try_ragged(session, train, line.notify)
    _tell_long(session, train, line.notify)
    return train, validation


def _work(session: Session, line: _Line, train: list[Example], validation: list[Example]) -> Work:
    """What the loop needs to know of a run. Where layers are frozen, the examples are run through them once."""
    from pefttune import batching, evaluation, training

    recipe, rows, name, config = line.recipe, line.rows, line.name, line.recipe.training
    ours = session[name]

    def boundary(what: str, examples: Sequence[Example], every_answer: bool) -> batching.Boundary | None:
        def progress(done: int) -> None:
            line.notify({"event": "frozen", "what": what, "done": done, "of": len(examples)})

        if not config.cache_frozen_layers:
            return None
        return session.boundary(name, examples, every_answer=every_answer, notice=notice, progress=progress)

    def notice(message: str) -> None:
        line.notify({"event": "notice", "message": message})

    entering_train = boundary("training", train, every_answer=False)
    entering_validation = boundary("validation", validation, every_answer=True)

    def collate(indices: Sequence[int]) -> batching.Batch:
        batch = session.collate([train[i] for i in indices], every_answer=False)
        return batch if entering_train is None else entering_train.enter(batch, indices)

    return training.Work(
        name=name,
        trainable=ours.parameters,
        plan=lambda epoch: batching.training_steps(
            train,
            config.per_device_train_batch_size * config.gradient_accumulation_steps,
            session.max_batch_tokens,
            (recipe.seed, epoch),
            ragged=bool(session.ragged),
        ),
        collate=collate,
        train_mode=ours.train,
        evaluate=lambda: (
            evaluation.score(session, name, rows.validation, validation, boundary=entering_validation).metrics
        ),
        primary=ours.task.primary,
        origins=lambda indices: [train[i].origin for i in indices],
        config=config,
        run_folder=line.run_folder,
        notify=line.notify,
    )


def _try_ragged(session: Session, examples: Sequence[Example], notify: Notify) -> None:
    """Find out whether batches of these examples can be ragged, and say so if not."""
    reason = session.try_ragged(examples)
    if reason is not None:
        message = f"this base reads padded batches, which are slower: ragged, {reason}"
        notify({"event": "notice", "message": message})


def _tell_long(session: Session, train: Sequence[Example], notify: Notify) -> None:
    """Name the rows that do not fit into a batch."""
    from pefttune.batching import n_fed

    long = [example.origin for example in train if n_fed(example, every_answer=False) > session.max_batch_tokens]
    if long:
        told = f"{len(long)} of {len(train)} training rows are longer than a batch of {session.max_batch_tokens} tokens"
        named = ", ".join(long[:ROWS_NAMED]) + (" …" if len(long) > ROWS_NAMED else "")
        notify({"event": "notice", "message": f"{told} and get one of their own: {named}"})


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
    return _compare(session, recipe, train, test, notify, name)


def _zero_shot(recipe: Recipe) -> str:
    """The name in a session of the base itself, asked to do a recipe's task."""
    return f"base:{recipe.output.name}"


def _add_zero_shot(session: Session, task: tasks.Task, recipe: Recipe) -> None:
    """Put the base itself into the session, asked to do the task. Raises BaseError or DataError where it cannot be."""
    from pefttune.inference import Loaded

    asked = task.zero_shot()
    encoder = asked.encoder(session.base.tokenizer, recipe.data.max_length)
    session.add(_zero_shot(recipe), Loaded(asked, encoder))


def _compare(
    session: Session,
    recipe: Recipe,
    train: Sequence[Row],
    test: Sequence[Row],
    notify: Notify,
    name: str | None = None,
) -> Comparison:
    """Base and adapter on the same test rows; `train` says which label is the commonest. The adapter's `name` in the
    session is that of the recipe if nothing else is said."""
    from pefttune import evaluation

    name, base_name = name or recipe.output.name, _zero_shot(recipe)

    def scored(who: str, told: str, examples: list[Example]) -> evaluation.Scored:
        def progress(done: int) -> None:
            notify({"event": "scoring", "what": told, "done": done, "of": len(test)})

        return evaluation.score(session, who, test, examples, progress)

    asked = [session[base_name].encoder(row) for row in test]
    if session.ragged is None:
        _try_ragged(session, asked, notify)
    base = scored(base_name, "base", asked)
    adapter = scored(name, name, _encode(recipe, session[name].encoder, test, "test", notify))
    settings = recipe.evaluation
    comparison = evaluation.compare(
        base, adapter, train, settings.bootstrap_samples, settings.confidence_level, recipe.seed
    )
    notify({"event": "comparison", **comparison.summary()})
    return comparison


def _report(line: _Line, log: TrainingLog, comparison: Comparison, labels: Sequence[str]) -> None:
    """The comparison with its rows, and the figure, in the run folder. Raises StorageError."""
    from pefttune import evaluation

    text = json.dumps(asdict(comparison), indent=1, ensure_ascii=False)
    try:
        (line.run_folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        evaluation.draw(line.run_folder / "figure.png", line.name, log.steps, log.evaluations, comparison, labels)
    except OSError as error:
        raise StorageError(
            f"{line.run_folder} cannot be written to: {error.strerror or error}; the store is untouched"
        ) from None


def _save(trained: Sequence[_Trained]) -> list[Path]:
    """Stage the adapters' folders, read them back into a fresh base, compare, and only then make them versions."""
    from pefttune import bases, evaluation
    from pefttune.inference import Session

    recipe, base = trained[0].line.recipe, trained[0].manifest["base"]
    with ExitStack() as stack:
        stagings = [stack.enter_context(_staged(one)) for one in trained]
        # In the dtype it was trained in: measured anew, another one may win on a busy machine.
        again = recipe.base.model_copy(update={"dtype": base["dtype"]})
        session = Session(bases.load(again, origin=base["origin"]))
        for one, staging in zip(trained, stagings, strict=True):
            one.line.notify({"event": "verifying", "rows": len(one.manifest["probe"]["texts"])})
            session.load(staging, name=one.line.name)
            evaluation.verify(session, one.line.name, one.manifest["probe"])
        return _commit_all(stagings)


def _commit_all(stagings: Sequence[Path]) -> list[Path]:
    """All become versions, or none."""
    versions: list[Path] = []
    try:
        for staging in stagings:
            versions.append(store.commit(staging))
    except BaseException:
        for version in versions:
            shutil.rmtree(version, ignore_errors=True)
        raise
    return versions


@contextmanager
def _staged(one: _Trained) -> Iterator[Path]:
    """The adapter's folder beside its versions, whole but for the proof; gone when the block ends."""
    from pefttune import methods, publishing

    name, base = one.line.name, one.manifest["base"]
    with store.staged(Path(one.line.recipe.output.store), name) as staging:
        methods.weights.write(staging, one.peft_config, one.state, base["hub_id"] or base["origin"], base["revision"])
        shutil.copyfile(one.line.run_folder / "figure.png", staging / "figure.png")
        (staging / "README.md").write_text(publishing.render_card(one.manifest), encoding="utf-8")
        store.write_manifest(staging, one.manifest)
        yield staging
