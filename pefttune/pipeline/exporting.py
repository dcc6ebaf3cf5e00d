"""A stored adapter in another form, and the proof that it is still the same model."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pefttune import data, store, tasks
from pefttune.data import Row
from pefttune.errors import AdapterError, InputError, VerificationError
from pefttune.pipeline.checking import read_config
from pefttune.pipeline.comparing import answering, encoded_for
from pefttune.pipeline.duties import limited
from pefttune.pipeline.evaluating import rows_of_the_training, tell_if_changed
from pefttune.pipeline.parents import Parent, read_parent
from pefttune.recipe import schema
from pefttune.recipe.adapters import METHODS

if TYPE_CHECKING:
    from pefttune.bases import Base, Fingerprint
    from pefttune.evaluation import Answers, Parity
    from pefttune.inference import Session
    from pefttune.publishing import Into
    from pefttune.training import Notify


@dataclass(frozen=True)
class Gate:
    """What a merged model has to pass: to agree with the adapter on its base in so large a share of the test rows of
    its recipe, or of a labelled file `source`, `max_rows` of them at most."""

    min_agreement: float = 0.95
    source: str | None = None
    max_rows: int | None = None


@dataclass(frozen=True)
class Exported:
    """The folder that was written; of a merged model into which weights, and how alike it is; and what one has to know
    who loads it elsewhere, in sentences."""

    folder: Path
    into: Into | None = None
    parity: Parity | None = None
    notes: tuple[str, ...] = ()


def export_peft(name: str, output: Path, store_folder: Path | str = "adapters") -> Exported:
    """Copy the stored adapter as plain PEFT loads it, every file checked. Raises AdapterError for a method that PEFT
    has not, InputError where something is at `output`, StorageError."""
    from pefttune import publishing

    adapter = read_parent(Path(store_folder), name)
    held = store.Hold(adapter.folder)
    if not METHODS[adapter.recipe.adapter.method].in_peft:
        raise AdapterError(f"{adapter.called} is a {adapter.recipe.adapter.method} adapter, which PEFT does not have")
    read_config(adapter)
    with publishing.new_folder(output) as folder:
        publishing.copy_stored(adapter.folder, adapter.manifest, folder)
    held.release()
    return Exported(output)


def export_merged(
    name: str,
    output: Path,
    into: Into | None = None,
    gate: Gate | None = None,
    store_folder: Path | str = "adapters",
    base_source: str | None = None,
    notify: Notify = lambda event: None,
) -> Exported:
    """Merge a stored LoRA adapter into the weights of its base: a model for transformers alone, in the folder `output`.

    `into` says into which weights, by default into those that it was trained on. Raises VerificationError where the
    model does not pass the gate, InputError, AdapterError, BaseError, DataError or StorageError; nothing is left then.
    """
    from pefttune import bases, evaluation, methods, publishing
    from pefttune.inference import open_session

    adapter, gate = read_parent(Path(store_folder), name), gate or Gate()
    name = adapter.called  # a newer version may come in the meantime
    into = into or ("original" if adapter.recipe.base.quantization == "none" else "dequantized")
    _check(adapter, into, gate)
    publishing.check_free(output)
    rows = _rows(adapter, gate, notify)
    session = open_session(name, store_folder, base_source)
    lora, trained_on = session[name].adapter, session.base
    assert isinstance(lora, methods.LoraAdapter)
    with publishing.new_folder(output) as folder:
        publishing.write_merged(trained_on, lora, into, folder)
        before = _answers(session, name, adapter, rows, "adapter on its base", notify)
        section = schema.Base(source=str(folder), quantization="none", dtype=publishing.dtype_name(trained_on))
        section = section.model_copy(update={"device": adapter.recipe.base.device})
        fingerprint = trained_on.fingerprint
        del session, lora, trained_on  # the merged model needs the room
        gc.collect()
        base = bases.load(section, remember=False)
        _check_reads_alike(fingerprint, base.fingerprint)
        after = _answers(_alone(base, name, adapter), name, adapter, rows, "merged model", notify)
        parity = evaluation.parity(len(rows), before, after)
        if parity.agreement < gate.min_agreement or parity.largest > _most_apart(parity, adapter):
            raise VerificationError(_refusal(adapter, into, gate, parity))
        card = publishing.render_merged_card(adapter.manifest, into, parity)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Exported(output, into, parity)


def _check(adapter: Parent, into: Into, gate: Gate) -> None:
    """Raise AdapterError for what cannot be merged, InputError for what cannot be asked."""
    kind, head = adapter.recipe.adapter.method, adapter.manifest.get("head")
    if kind != "lora" or (head and head["outputs"] is not None):
        what = f"a {kind} adapter" if kind != "lora" else "an adapter with a head, which the base has no place for"
        raise AdapterError(
            f"{adapter.called} is {what}. What can be merged into weights is a lora adapter without a head: of the "
            "tasks summarization and text-generation, or text-classification by label-words"
        )
    if into == "dequantized" and adapter.recipe.base.quantization == "none":
        raise InputError(f"--into dequantized: {adapter.called} was trained on the original weights; leave it out")
    if not 0 <= gate.min_agreement <= 1:
        raise InputError(f"--min-agreement {gate.min_agreement:g} is no share: it must be between 0 and 1")


def _rows(adapter: Parent, gate: Gate, notify: Notify) -> Sequence[Row]:
    """The held-out rows to compare on."""
    recipe = limited(adapter.recipe, gate.max_rows)
    task = tasks.get(recipe.task).with_labels(adapter.manifest["labels"])
    if gate.source is not None:
        return data.load_file(gate.source, recipe.data, task.columns, task.check)[: gate.max_rows]
    rows = rows_of_the_training(recipe, task)
    if gate.max_rows is None:
        tell_if_changed(rows, adapter.manifest, notify)
    return rows.test


def _answers(session: Session, name: str, adapter: Parent, rows: Sequence[Row], told: str, notify: Notify) -> Answers:
    from pefttune import evaluation

    encoded = encoded_for(session, name, adapter.recipe, rows, "test", notify)
    return evaluation.answer(session, name, rows, encoded, answering(session, name, told, encoded, notify))


def _alone(base: Base, name: str, adapter: Parent) -> Session:
    """A session in which `name` is the base itself, asked as the adapter is."""
    from pefttune.inference import Loaded, Session

    session, recipe = Session(base), adapter.recipe
    task, longest = tasks.get(recipe.task).with_labels(adapter.manifest["labels"]), recipe.data.max_length
    session.add(name, Loaded(task, session.encoder(task, longest), longest))
    return session


def _check_reads_alike(ours: Fingerprint, merged: Fingerprint) -> None:
    """Raise VerificationError where something but weights has changed."""
    same = replace(ours, tensors=merged.tensors, quantization=merged.quantization)
    if differences := merged.differences(same):
        raise VerificationError(f"the merged model reads otherwise than its base. They differ in: {differences[0]}")


def _most_apart(parity: Parity, adapter: Parent) -> float:
    """How far scores may be apart: where all answers are one, agreement says nothing, and only rounding is let pass;
    else anything but a number that is none."""
    from pefttune.evaluation.probe import ROUNDING

    return ROUNDING[adapter.manifest["base"]["dtype"]] if parity.distinct == 1 < parity.choices else sys.float_info.max


def _refusal(adapter: Parent, into: Into, gate: Gate, parity: Parity) -> str:
    quantization = adapter.recipe.base.quantization
    if into == "original" and quantization != "none":
        mend = f"It was trained on these weights quantized to {quantization}: merge into those, --into dequantized"
    else:
        mend = "Rounding the sums to the dtype of the base's files loses it: keep it beside its base, --to peft"
    if parity.distinct == 1 and parity.agreement >= gate.min_agreement:
        return (
            f"{adapter.called}, merged into the {into} weights, cannot be shown to be the model that was trained: both "
            f"give one answer to all {parity.choices:,} {parity.counted}, and their scores are up to "
            f"{parity.largest:.2g} apart. Give rows with several answers by --data. Nothing was written"
        )
    return (
        f"{adapter.called}, merged into the {into} weights, is not the model that was trained: it agrees with the "
        f"adapter on its base in {_percent(parity.agreement)} of {parity.choices:,} {parity.counted}, and "
        f"{_percent(gate.min_agreement)} are asked for ({parity.metric} {_percent(parity.after)} instead of "
        f"{_percent(parity.before)}, scores up to {parity.largest:.2g} apart). {mend}. Nothing was written"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
