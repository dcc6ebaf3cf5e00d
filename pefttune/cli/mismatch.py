"""`--allow-base-mismatch`: an adapter on another base than its own, which is told wherever its answers go."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from pefttune.cli.output import err
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.bases import Mismatch

FIELDS = ("config", "tensors", "quantization", "tokenizer", "chat_template")
COLUMN = "base_mismatch"
"""What a row gains by an answer from another base."""
MayDiffer = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-base-mismatch",
        help="A field of the base's fingerprint that may be another than when it was trained "
        f"({', '.join(FIELDS)}); give it once for each. All that is written says so.",
        metavar="FIELD",
    ),
]


def checked_fields(given: list[str] | None) -> Collection[str]:
    """The fields that were given. Raises InputError for one that is none."""
    for field in given or ():
        if field not in FIELDS:
            raise InputError(f"--allow-base-mismatch {field}: a base's fingerprint has {', '.join(FIELDS)}")
    return given or ()


def column_of(mismatch: Mismatch) -> dict[str, str]:
    """What each row of a file says of it; nothing on its own base."""
    return {COLUMN: ", ".join(mismatch)} if mismatch else {}


def tell_mismatch(name: str, mismatch: Mismatch) -> None:
    """Say on stderr that it is on another base than its own."""
    if mismatch:
        from pefttune.bases import in_words

        err.print(
            f"note: {name} is on another base than the one that it was trained on, as was asked for. They differ in: "
            f"{'; '.join(in_words(mismatch))}. Nothing proves what it answers",
            soft_wrap=True,
        )
