"""`pefttune.json`: what is known of an adapter, with the sha256 of every other file in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pefttune.errors import AdapterError
from pefttune.store.naming import check_name
from pefttune.store.strict_json import read_json, shown

MANIFEST = "pefttune.json"
FORMAT = 2
MAX_BYTES = 16 << 20
SIGNATURE = "model.sig"
"""Beside the files that a manifest names, since it is made of that, too."""
HUBS_OWN = frozenset({".gitattributes", ".eval_results"})
"""What a repository of the Hub holds besides: its own settings, and results for its leaderboards."""
DTYPES = frozenset({"float32", "bfloat16", "float16"})
NUMBER = int | float
TASK_TYPES = frozenset({"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM"})


@dataclass(frozen=True)
class Maybe:
    """The shape of what may also be null, or in older manifests `missing`."""

    shape: Any
    missing: bool = False


SHAPE: dict[str, Any] = {
    "name": str,
    "recipe": {
        "task": {"type": str},
        "data": {
            "source": str | None,
            "columns": dict,
            **dict.fromkeys(("test", "revision", "config_name", "max_test_samples", "label_bins"), object),
        },
        "base": {"source": str},
        "adapter": {"method": str},
        "evaluation": {"confidence_level": NUMBER},
        "output": {"license": str | None},
    },
    "labels": (str,),
    "inputs": [str],
    "new_tokens": Maybe({...: int}, missing=True),
    "base": {
        "source": str,
        "hub_id": str | None,
        "revision": str | None,
        "origin": str,
        "dtype": DTYPES,
        "fingerprint": dict.fromkeys(("config", "tensors", "quantization", "tokenizer", "chat_template"), str),
    },
    "data": {
        "source": str,
        "title": str | None,
        "licence": str | None,
        "rows": dict.fromkeys(("train", "validation", "test"), int),
        "fingerprints": {...: str},
    },
    "comparison": {
        "rows": int,
        "primary": str,
        "shown": {...: str},
        "adapter": dict,
        "others": {...: dict},
        "differences": [
            {
                "against": str,
                **dict.fromkeys(("there", "difference", "low", "high", "sign_test_p"), NUMBER),
                **dict.fromkeys(("fixed", "broken"), int),
            }
        ],
    },
    "lineage": Maybe({"how": str}, missing=True),
    "created": str,
    "prompt": str,
    "parameters": int,
    "training": dict,
    "head": Maybe({"task_type": TASK_TYPES, "outputs": int | None, "plain": bool}),
    "probe": {"rows": (dict,), "scores": (list,)},
    "versions": {"pefttune": str, ...: str},
    "files": {**dict.fromkeys(("README.md", "adapter_config.json", "adapter_model.safetensors"), str), ...: str},
}
"""What other rooms take from a manifest without looking twice. `[…]` holds at least one, `(…,)` any number; a set is of
what may stand there, `object` anything, and `...` is every other key."""
PER_CLASS = {...: {**dict.fromkeys(("precision", "recall", "f1"), NUMBER), "rows": int}}
COST = {
    "seconds": NUMBER,
    "device": str,
    "dtype": str,
    "memory": dict.fromkeys(
        ("peak_mib", "libraries_mib", "weights_mib", "adapter_and_optimizer_mib", "activations_mib"), NUMBER
    ),
}
PARENT = {"name": str, "version": int, "sha256": str}
LINEAGES: dict[str, Any] = {
    "import": {"sha256": str, "base": str | None},
    "warm_start": {"parents": [PARENT]},
    "fusion": {"parents": [PARENT]},
}
MERGED: dict[str, Any] = {
    "r": int,
    "kept": NUMBER,
    "density": NUMBER | None,
    "seed": int,
    "parents": [{**PARENT, "weight": NUMBER}],
    "tasks": ({**dict.fromkeys(("adapter", "task", "metric"), str), "rows": int, "alone": NUMBER, "merged": NUMBER},),
    "search": Maybe({"tried": int}),
}
MOST_TOLD = 8


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest, last of all files: it names the sha256 of every other one."""
    files = {
        p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name not in (MANIFEST, SIGNATURE)
    }
    text = json.dumps({"format": FORMAT, **content, "files": files}, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path, check_files: bool = True) -> dict[str, Any]:
    """The manifest, with every file's sha256 checked. Raises AdapterError for a damaged, changed or foreign folder."""
    path = folder / MANIFEST
    content = read_json(path, MAX_BYTES)
    if not isinstance(content, dict) or "format" not in content:
        raise AdapterError(f"{path} is not a manifest of pefttune")
    if content["format"] != FORMAT:
        raise AdapterError(
            f"{path}: format {shown(content['format'])} is not {FORMAT}, which this pefttune reads; train it anew, or "
            "use the pefttune that wrote it"
        )
    if faults := _faults(content):
        raise AdapterError(f"{path} is damaged: {', '.join(faults)} missing or of the wrong kind")
    try:
        check_name(content["name"])
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from None
    if check_files:
        _check_files(folder, content["files"])
    return content


def _misfits(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """The paths of what is not of that shape; `...` stands for what is missing."""
    if isinstance(shape, Maybe):
        if value is not None and not (value is ... and shape.missing):
            yield from _misfits(value, shape.shape, path)
    elif isinstance(shape, dict) and isinstance(value, dict):
        others = dict.fromkeys(value, shape[...]) if ... in shape else {}
        for key, inner in {**others, **{key: inner for key, inner in shape.items() if key is not ...}}.items():
            yield from _misfits(value.get(key, ...), inner, f"{path}.{key}" if path else key)
    elif isinstance(shape, list | tuple) and isinstance(value, list) and (value or isinstance(shape, tuple)):
        for i, inner in enumerate(value):
            yield from _misfits(inner, shape[0], f"{path}.{i}")
    elif isinstance(shape, frozenset):
        if not isinstance(value, str) or value not in shape:
            yield path
    elif value is ... or isinstance(shape, dict | list | tuple) or not isinstance(value, shape):
        yield path


def _first(faults: Iterable[str]) -> list[str]:
    """As many as a person reads."""
    return [shown(fault) for fault in islice(faults, MOST_TOLD)]


def _faults(content: dict[str, Any]) -> list[str]:
    """What is not of the shape that other rooms rely on."""
    return _first(_misfits(content, SHAPE)) or _first(_misfits(content, _shape_within(content)))


def _shape_within(content: dict[str, Any]) -> dict[str, Any]:
    """The shape of what depends on other parts of the manifest: metrics on which are shown, a lineage on its kind."""
    comparison, lineage = content["comparison"], content.get("lineage")
    metrics = dict.fromkeys((comparison["primary"], *comparison["shown"]), NUMBER)
    per_class = {"per_class": PER_CLASS} if "per_class" in comparison["adapter"] else {}
    return {
        "comparison": {
            "shown": {comparison["primary"]: str},
            "adapter": {**metrics, **per_class},
            "others": {...: metrics},
        },
        "lineage": Maybe(LINEAGES.get(lineage["how"], MERGED) if lineage else {}, missing=True),
        "training": COST if "seconds" in content["training"] else {},
    }


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Raise AdapterError unless the folder holds these files, unchanged, and none beside them: PEFT would load a pickle
    or a `chat_template.jinja` that somebody has put there."""
    try:
        _compare(folder, files)
    except OSError as error:  # a name that no file can have, a file that is not ours to read
        raise AdapterError(f"{folder} cannot be read: {error.strerror}") from None


def _compare(folder: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise AdapterError(f"{folder / shown(name)} is missing")
        if _sha256(folder / name) != digest:
            raise AdapterError(
                f"{folder / name} has been changed or damaged: its sha256 is not the one it was saved with"
            )
    for path in folder.iterdir():
        if path.name not in {*files, MANIFEST, SIGNATURE, *HUBS_OWN}:
            raise AdapterError(
                f"{path} is not among the files that were saved here; take it out, or get the adapter anew"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
