"""`pefttune alias`, `pefttune remove` and `pefttune gc`: the versions of adapters in the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pefttune.cli.output import Json, Store, out, print_json
from pefttune.errors import AdapterError

if TYPE_CHECKING:
    from pefttune.store import Removed


def alias(
    name: Annotated[str, typer.Argument(help="An adapter: name, which means its newest version, or name@version.")],
    word: Annotated[str, typer.Argument(help="The alias: `pefttune alias film@3 best` makes film@best.")],
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Give a version another name, such as `best`; what had that name has it no more."""
    from pefttune import store as room

    folder = room.find(Path(store), name)
    room.alias(folder, word)
    told = {"name": folder.parent.name, "version": int(folder.name), "alias": word}
    if as_json:
        print_json(told)
    else:
        out.print(f"{told['name']}@{word} is {told['name']}@{told['version']}")


def remove(
    name: Annotated[str, typer.Argument(help="A version: name@version; or the name, where there is one version only.")],
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Remove a version from the store; never one that a running process uses, or that has an alias."""
    from pefttune import store as room

    folder = room.find(Path(store), name)
    present = room.versions(Path(store), folder.parent.name)
    if "@" not in name and len(present) > 1:
        raise AdapterError(f"{name} has versions {', '.join(map(str, present))}: say which, as in {name}@{present[0]}")
    _tell([room.remove(folder)], "removed", as_json=as_json)


def gc(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Newest versions of each adapter to keep.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    store: Store = "adapters",
    as_json: Json = False,
) -> None:
    """Remove old versions and what killed processes left, but nothing that is in use or has an alias."""
    from pefttune import store as room

    _tell(list(room.tidy(Path(store), keep, dry=dry_run)), "would go" if dry_run else "removed", as_json=as_json)


def _tell(gone: list[Removed], how: str, *, as_json: bool) -> None:
    if as_json:
        print_json({how.replace(" ", "_"): [{"what": one.what, "bytes": one.nbytes} for one in gone]})
        return
    for one in gone:
        out.print(f"{how}: {one.what} ({one.nbytes / 1024:,.0f} KiB)")
    if not gone:
        out.print("nothing to remove")
