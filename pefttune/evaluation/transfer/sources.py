"""Adapters as a place to start from: what their predictions, or their states, tell of the sample's labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pefttune.data import UNKNOWN, Row
from pefttune.evaluation.transfer.logme import logme
from pefttune.evaluation.transfer.report import SourceFound
from pefttune.evaluation.transfer.sample import Sample
from pefttune.evaluation.transfer.source_labels import leep, nce
from pefttune.inference import views_of
from pefttune.tasks import Classified, TextClassification

if TYPE_CHECKING:
    from pefttune.inference import Session


def judge_source(
    session: Session, name: str, sample: Sample, base: str, progress: Callable[[int], None] = lambda done: None
) -> SourceFound:
    """An adapter of the session, or `base:NAME`, judged by the labels it predicts where it gives each text one and the
    sample's rows are such texts, else by LogME of the states behind it, which reads the rows in its own way."""
    task = session.purpose(name).task
    if not (isinstance(task, TextClassification) and isinstance(sample.task, TextClassification)):
        own = _as_read_by(session, name, sample)
        views = views_of(session, own.examples, lambda message: None, progress, adapter=name)
        known = own.targets_U != UNKNOWN
        found = max(logme(features[known], own.targets_U[known]) for features in views.values())
        return SourceFound(name, base, task.labels, logme=found)
    bare = [Row({"text": row.values["text"]}, row.origin) for row in sample.rows]
    encoded = [session.purpose(name).encoder(row) for row in bare]
    predictions = [one for one in session.predictions(name, bare, encoded, progress) if isinstance(one, Classified)]
    chances = np.array([[one.probabilities[label] for label in task.labels] for one in predictions])
    right = [str(one) == sample.task.reference(row) for one, row in zip(predictions, sample.rows, strict=True)]
    return SourceFound(
        name,
        base,
        task.labels,
        leep(chances, sample.targets_U),
        nce(chances.argmax(1), sample.targets_U),
        float(np.mean(right)) if set(task.labels) == set(sample.task.labels) else None,
    )


def _as_read_by(session: Session, name: str, sample: Sample) -> Sample:
    """The sample as the adapter reads texts, where that is not as the base does: by a tokenizer of its own, or behind
    virtual tokens."""
    loaded = session[name]
    if loaded.vocabulary is None and not (loaded.adapter and loaded.adapter.virtual_ids):
        return sample
    encoder = session.encoder_by(name, sample.task)
    return replace(sample, encoded=tuple(encoder(row) for row in sample.rows))
