"""`pefttune verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pefttune.cli.mismatch import MayDiffer, checked_fields, tell_mismatch
from pefttune.cli.output import BaseFolder, Json, Store, out, print_json
from pefttune.errors import VerificationError

if TYPE_CHECKING:
    from pefttune.pipeline import Verification

SAYS = {
    "equal": "scores its {rows} probe rows to the bit as when it was trained",
    "rounding": "scores its {rows} probe rows up to {largest:.2g} away from those of its training, within what another "
    "device's rounding of {dtype} explains; its files are to the byte those that were saved",
}


def verify(
    name: Annotated[str, typer.Argument(help="An adapter: name, or name@version.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="The public key of who is to have signed it; else it is refused.")
    ] = None,
    store: Store = "adapters",
    base: BaseFolder = None,
    may_differ: MayDiffer = None,
    as_json: Json = False,
) -> None:
    """Prove that an adapter is the one that was trained: its files, its base, and its answers to the probe rows."""
    allowed = checked_fields(may_differ)

    from pefttune import pipeline

    if key is None:
        found = pipeline.verify(name, Path(store), base, allowed)
    else:
        found = pipeline.verify_signed(name, key, Path(store), base, allowed)
    tell_mismatch(name, found.base_mismatch)
    if found.verdict.word == "different":
        raise VerificationError(_different(name, found))
    if as_json:
        verdict = {"verdict": found.verdict.word, **asdict(found.verdict)}
        since = {"versions": found.versions, "base_mismatch": found.base_mismatch}
        signed = {} if key is None else {"signed_by": str(key)}
        print_json({"name": name, "folder": str(found.folder), **verdict, **since, **signed})
        return
    if key is not None:
        out.print(f"{name}: signed by the owner of {key}, and nothing in its folder has changed since.", soft_wrap=True)
    out.print(f"{name}: {found.verdict.word}. It {SAYS[found.verdict.word].format(**asdict(found.verdict))}.")
    if found.versions:
        out.print(f"Since then: {_told(found)}")


def _different(name: str, found: Verification) -> str:
    verdict = found.verdict
    since = f"; since then: {_told(found)}" if found.versions else ""
    return (
        f"{name} is not what was trained, or what runs it has changed: it scores its {verdict.rows} probe rows up to "
        f"{verdict.largest:.2g} away from what the trained one scored, more than rounding of {verdict.dtype} "
        f"explains{since}"
    )


def _told(found: Verification) -> str:
    return ", ".join(f"{name} {here} instead of {there}" for name, (there, here) in sorted(found.versions.items()))
