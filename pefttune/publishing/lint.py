"""What would be wrong, or worth a thought, with a publication: told before anything leaves the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttune import methods, store
from pefttune.data import CATALOGUE
from pefttune.errors import AdapterError
from pefttune.inference import check_config, check_described
from pefttune.methods.tensor_file import LENGTH_BYTES, MAX_HEADER_BYTES
from pefttune.publishing.files import CARD, FIGURE, MOST_BYTES, MOST_BYTES_BESIDE, strangers
from pefttune.publishing.results import hub_dataset
from pefttune.publishing.traces import paths_in, tokens_in

DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Lint:
    """Sentences: `errors` stop a publication, `warnings` are for its owner to judge."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def lint(folder: Path, manifest: dict[str, Any], license: str | None, *, private: bool) -> Lint:
    """Examine a folder as it would be published; its files are those that its manifest names."""
    if strange := strangers(manifest["files"]):
        return Lint((f"{', '.join(strange)}: an adapter of pefttune has {', '.join(MOST_BYTES)}, and no other",), ())
    base = list(_base_faults(manifest["base"]))
    errors = [*_files_faults(folder, manifest), *([] if private else base), *_traces(folder, manifest)]
    if license is None:
        errors.append("no licence is known: give one with --license, as an SPDX identifier such as apache-2.0")
    return Lint(tuple(errors), (*(base if private else []), *_warnings(manifest)))


def _base_faults(base: dict[str, Any]) -> Iterator[str]:
    if base["hub_id"] is None:
        yield (
            f"its base, {base['origin']!r}, has no id on the Hub, so that others cannot get it: train with "
            "`base.source` as a Hub id, or publish with --private for people who have that base"
        )
    elif base["revision"] is None and not base["origin"].startswith("package index: "):
        yield f"no commit is known of its base, {base['hub_id']}: train again with the base from the Hub"


def _files_faults(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    for name, most in MOST_BYTES.items():
        if (size := (folder / name).stat().st_size) > most:
            yield f"{name} has {size:,} bytes, and pefttune pulls at most {most:,}"
    for field, digest in manifest["base"]["fingerprint"].items():
        if field != "quantization" and not DIGEST.fullmatch(digest):
            yield f"the digest of its base's {field.replace('_', ' ')} is no digest: {digest!r}"
    try:
        check_config(folder, manifest)
        check_described(folder, manifest)
        methods.weights.check(folder, manifest["files"][methods.weights.WEIGHTS])
    except AdapterError as error:
        yield str(error)


def _traces(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    for name in (*MOST_BYTES, *(MOST_BYTES_BESIDE.keys() & manifest["files"])):
        try:
            text = _text_of(folder / name)
        except Exception as error:  # whatever a stranger's picture leads the library to
            yield f"{name} cannot be read: {error}"
            continue
        for line, token in tokens_in(text):
            yield f"{name}, line {line}: this looks like a secret, {token}"
        # What the rows of a data set say is no trace of this machine.
        own = json.dumps({**manifest, "probe": None}, ensure_ascii=False) if name == store.MANIFEST else text
        for line, path in paths_in(own):
            yield f"{name}{'' if own is not text else f', line {line}'}: it holds a path of a machine, {path}"


def _text_of(path: Path) -> str:
    """All that a file says in words."""
    if path.name == FIGURE:
        from PIL import Image

        with Image.open(path) as image:
            image.load()  # some of a PNG's texts stand behind its pixels
            return "\n".join(f"{key}: {value}" for key, value in image.info.items())
    with path.open("rb") as file:
        if path.name != methods.weights.WEIGHTS:
            return file.read().decode(errors="replace")
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        return file.read(min(length, MAX_HEADER_BYTES)).decode(errors="replace")


def _warnings(manifest: dict[str, Any]) -> Iterator[str]:
    data, rows = manifest["data"], len(manifest["probe"]["rows"])
    first = manifest["comparison"]["differences"][0]
    known = manifest["recipe"]["data"]["source"] in CATALOGUE or hub_dataset(manifest)
    if not known:
        yield (
            f"{rows} rows of your own data, {data['source']}, are published with it, in {store.MANIFEST}: by them "
            "`pefttune verify` proves that it is what was trained"
        )
    if data["licence"] is None:
        yield f"the licence of its data, {data['source']}, is not known, and {CARD} does not name one"
    if first["low"] <= 0:
        yield f"it is not clear that it is better than {first['against']}: the interval of the difference holds zero"
