"""The doctor's checks at the start of a run, on the very examples that will be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pefttune.data import Example
from pefttune.errors import DataError
from pefttune.pipeline.beginning import Line

if TYPE_CHECKING:
    from pefttune.inference import Session


def check(session: Session, line: Line, train: Sequence[Example], validation: Sequence[Example]) -> None:
    """Tell the warnings, in short. Raises DataError for what would make training wrong without a word."""
    from pefttune import doctor
    from pefttune.inference import PromptedEncoder

    ours, rows = session[line.name], line.rows
    encoder = ours.encoder
    if isinstance(encoder, PromptedEncoder):
        train, validation = encoder.without(train), encoder.without(validation)
        encoder = encoder.plain
    by_part = {"train": rows.train, "validation": rows.validation}
    if rows.test:  # trainings that are only compared have none
        by_part["test"] = rows.test
    examples = {"train": train, "validation": validation, "test": ()}  # test rows are encoded when they are scored
    findings = doctor.check(doctor.Case(ours.task, session.tokenizer(line.name), encoder, by_part, examples))
    if errors := [str(finding) for finding in findings if finding.level == "error"]:
        raise DataError("\n".join(errors))
    for finding in findings:
        if finding.level == "warning":
            line.notify({"event": "notice", "message": f"{finding.what} (see pefttune doctor)", **asdict(finding)})
