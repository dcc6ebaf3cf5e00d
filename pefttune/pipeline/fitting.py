"""Attach and train: what the loop, which knows no task and no method, is given of each line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from pefttune import tasks
from pefttune.data import Example, Row
from pefttune.pipeline.beginning import Line
from pefttune.pipeline.encoding import encode, flat, teaches, tell_long, try_ragged
from pefttune.pipeline.examining import check
from pefttune.pipeline.fusing import weights_of
from pefttune.pipeline.settling import settle
from pefttune.pipeline.telling import counter, tell
from pefttune.pipeline.warm_starting import begin_with
from pefttune.recipe.adapters import Fusion, Lora

if TYPE_CHECKING:
    from pefttune.batching import Batch, Boundary, Outputs
    from pefttune.inference import Session
    from pefttune.training import TrainingLog, Work


def attach(session: Session, line: Line) -> Line:
    """Put the line's new adapter and its head into the session, with the weights it begins with. The line, with what
    its recipe left open settled."""
    from accelerate.utils import set_seed

    from pefttune.methods import FusionAdapter, LoraAdapter

    line, beginning = settle(session, line)
    recipe = line.recipe
    members = weights_of(session, line.parents) if isinstance(recipe.adapter, Fusion) else []
    set_seed(recipe.seed)
    loaded = session.add(line.name, session.attach(line.task, recipe.adapter, recipe.data.max_length))
    if loaded.vocabulary is not None:
        told = ", ".join(f"{token!r} (id {own})" for token, own in loaded.vocabulary.new_ids.items())
        tell(line.notify, f"the base's vocabulary lacks {told}: this adapter adds that to a copy of the tokenizer")
    if beginning is not None and isinstance(loaded.adapter, LoraAdapter):
        loaded.adapter.begin(beginning, counter(line.notify, "decomposed", "weights", len(loaded.adapter.updates)))
    if isinstance(loaded.adapter, FusionAdapter):
        loaded.adapter.begin_with(members)
    elif isinstance(recipe.adapter, Lora) and line.parents:
        begin_with(session, line.name, recipe.adapter, line.parents[0], line.notify)
    return line


def fit(session: Session, lines: Sequence[Line]) -> list[tuple[TrainingLog, dict[str, Any]]]:
    """Train the adapters in place; for each, what happened and what it cost."""
    from pefttune import training

    base = session.base
    weights_mib = base.weight_bytes / training.MIB
    libraries_mib = training.resident_mib(base.device) - weights_mib
    encoded = [_encoded(session, line) for line in lines]  # all before any: one of them may need padded batches
    works = [_work(session, line, *examples) for line, examples in zip(lines, encoded, strict=True)]
    training.reset_peak(base.device)
    logs = training.fit(works, session.losses, base.digest, session.max_batch_tokens)
    peak_mib = training.peak_mib(base.device)
    parameters = sum(p.nbytes for line in lines for p in session[line.name].parameters.values())
    trained_bytes = sum(log.optimizer_bytes for log in logs) + 2 * parameters  # with gradients
    memory = training.MemorySplit(
        device=base.device.type,
        peak_mib=peak_mib,
        libraries_mib=libraries_mib,
        weights_mib=weights_mib,
        adapter_and_optimizer_mib=trained_bytes / training.MIB,
    )
    costs = [training.cost(log, memory) for log in logs]
    for line, cost in zip(lines, costs, strict=True):
        line.notify({"event": "memory", **cost["memory"]})
    return list(zip(logs, costs, strict=True))


def _encoded(session: Session, line: Line) -> tuple[list[Example], list[tasks.Encoded]]:
    """Training rows as examples, and those of each validation row. Told: rows that are too long, what the
    doctor finds, batches not ragged."""
    from pefttune.inference import ReadOnlyEncoder

    def encoded(rows: Sequence[Row], what: str) -> list[tasks.Encoded]:
        return encode(line.recipe, session[line.name].encoder, rows, what, line.notify)

    train, validation = flat(encoded(line.rows.train, "training")), encoded(line.rows.validation, "validation")
    if line.recipe.data.too_long == "error":  # said of test rows now, not when the training is over
        encoded(line.rows.test, "test")
    encoder = session[line.name].encoder
    if isinstance(encoder, ReadOnlyEncoder):
        for row in line.rows.test:  # an answer that cannot be written, too
            encoder(row)
    check(session, line, train, flat(validation))
    train = [example for example in train if teaches(example)]
    try_ragged(session, train, line.notify)
    tell_long(session, train, line.notify)
    return train, validation


def _work(session: Session, line: Line, train: list[Example], validation: list[tasks.Encoded]) -> Work:
    """What the loop needs to know of a run. Where layers are frozen, the examples are run through them once."""
    from pefttune import batching, evaluation, training

    name, recipe, config, ours = line.name, line.recipe, line.recipe.training, session[line.name]
    entering_train = _boundary(session, line, "training", train, every_answer=False)
    entering_validation = _boundary(session, line, "validation", flat(validation), every_answer=True)
    adapter = ours.adapter
    assert adapter is not None
    rows_a_step = config.per_device_train_batch_size * config.gradient_accumulation_steps

    def plan(epoch: int) -> Sequence[Sequence[Sequence[int]]]:
        order, ragged = (recipe.seed, epoch), bool(session.collator.is_ragged(train))
        steps = batching.training_steps(train, rows_a_step, session.max_batch_tokens, order, ragged=ragged)
        if isinstance(entering_train, batching.Outputs):  # no token is read, so that no budget divides a step
            return [[list(chain.from_iterable(step))] for step in steps]
        return steps

    def collate(indices: Sequence[int]) -> Batch:
        return session.collator.batch(train, indices, entering_train, every_answer=False)

    def evaluate() -> dict[str, Any]:
        rows = line.rows.validation
        return evaluation.watch(session, name, rows, validation, entering_validation)

    return training.Work(
        name=name,
        trainable=ours.parameters,
        plan=plan,
        collate=collate,
        train_mode=ours.train,
        evaluate=evaluate,
        watched=ours.task.watched,
        origins=lambda indices: [train[i].origin for i in indices],
        config=config,
        run_folder=line.run_folder,
        notify=line.notify,
        rates=adapter.rates,
        penalty=adapter.penalty,
        after_step=adapter.after_step,
    )


def _boundary(
    session: Session, line: Line, what: str, examples: Sequence[Example], *, every_answer: bool
) -> Boundary | Outputs | None:
    """What the layers below the lowest one that the adapter changes make of these examples; None where it is not to be
    kept."""
    from pefttune.inference import boundary_of

    if not line.recipe.training.cache_frozen_layers:
        return None
    return boundary_of(
        session,
        line.name,
        examples,
        every_answer=every_answer,
        notice=lambda message: tell(line.notify, message),
        progress=counter(line.notify, "frozen", what, len(examples)),
    )
