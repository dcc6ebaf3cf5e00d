"""`pefttune sign`, `pefttune publish` and `pefttune pull`: adapters to and from the Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pefttune.cli.output import Json, Store, err, out, print_json

if TYPE_CHECKING:
    from pefttune.publishing import Publication


def sign(
    name: Annotated[str, typer.Argument(help="An adapter: name, or name@version.")],
    key: Annotated[Path, typer.Option("--key", help="A private key: elliptic curve, PEM, without a password.")],
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Sign a stored adapter, so that `pefttune verify NAME --key PUBLIC_KEY` proves who made it."""
    from pefttune import store as room

    folder = room.find(Path(store), name)

    from pefttune import publishing

    signature = publishing.sign(folder, key)
    if as_json:
        print_json({"name": name, "signature": str(signature)})
    else:
        out.print(f"signed: {signature}", soft_wrap=True)


def publish(
    name: Annotated[str, typer.Argument(help="An adapter: name, or name@version.")],
    repo_id: Annotated[str, typer.Option("--repo-id", help="Where it goes on the Hub: OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owner may see it.")] = False,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Propose it to its owner.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    license: Annotated[str | None, typer.Option("--license", help="Its licence, as an SPDX identifier.")] = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="Task of its data set's leaderboard on the Hub.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="A private key to sign it with (pefttune sign).")] = None,
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Publish an adapter on the Hub: its files as they were saved, a card, and nothing of this machine."""
    from pefttune import store as room

    folder = room.find(Path(store), name)

    from pefttune import publishing

    with publishing.prepare(
        folder, repo_id, private=private, license=license, benchmark=benchmark, key=key
    ) as publication:
        for warning in publication.warnings:
            err.print(f"note: {warning}", soft_wrap=True)
        landed = None if dry_run else publishing.publish(publication, pull_request=pull_request)
        if as_json:
            print_json({**_described(publication), "published": landed and asdict(landed)})
            return
        for file in publication.files:
            out.print(f"{file.name}  {file.nbytes:,} bytes  sha256 {file.sha256}", soft_wrap=True)
    if landed is None:
        out.print(f"nothing was sent; without --dry-run these files go to {repo_id}")
    else:
        out.print(f"{'proposed' if pull_request else 'published'}: {landed.url}", soft_wrap=True)


def _described(publication: Publication) -> dict[str, Any]:
    files = [{"name": file.name, "bytes": file.nbytes, "sha256": file.sha256} for file in publication.files]
    return {"repo_id": publication.repo_id, "files": files, "warnings": list(publication.warnings)}


def pull(
    repository: Annotated[str, typer.Argument(help="A repository on the Hub: OWNER/NAME, or OWNER/NAME@REVISION.")],
    name: Annotated[
        str | None, typer.Option("--as", help="Its name in the store, by default the repository's.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="The public key of who is to have signed it; else it is refused.")
    ] = None,
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Fetch an adapter that pefttune published into the store, every file checked; or nothing at all."""
    from pefttune import publishing

    pulled = publishing.pull(repository, Path(store), name, key)
    called = f"{pulled.folder.parent.name}@{pulled.folder.name}"
    if as_json:
        print_json({**asdict(pulled), "folder": str(pulled.folder), "name": called})
        return
    base = (
        "its base lies here, and is the one that it was trained on"
        if pulled.base_checked
        else "its base is not here yet, and will be checked when it is first used"
    )
    told = f"{called} is {repository}, commit {pulled.commit}; every file is as it was published, and {base}."
    out.print(told, soft_wrap=True)
    proof = f"`pefttune verify {called}` proves that it answers here as it did when it was trained."
    out.print(proof, soft_wrap=True)
