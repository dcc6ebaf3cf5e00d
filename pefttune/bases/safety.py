"""What a base's files may not do: bring code, or weights that run code when read, or leave weights to chance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pefttune.errors import BaseError

MAX_CONFIG_BYTES = 1 << 20
CODE_KEYS = ("auto_map", "attn_implementation", "experts_implementation")


def check_folder(folder: Path, quantization: str) -> None:
    """Refuse a folder without config or safetensors, with an adapter in it, quantized otherwise, or that names code.

    Raises BaseError. `auto_map` names Python files to import; `attn_implementation` can name a kernel to download
    and run (CVE-2026-4372), which is why both are refused even though `trust_remote_code` is off.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise BaseError(f"{folder}: no config.json there, so this is not a model folder of transformers")
    if not any(folder.glob("*.safetensors")):
        raise BaseError(
            f"{folder}: no .safetensors weights there. Pickled weights (.bin, .pt) run code when read and are never "
            "loaded; convert them with transformers' save_pretrained on a machine you trust"
        )
    if (folder / "adapter_config.json").exists():
        raise BaseError(
            f"{folder}: it holds an adapter (adapter_config.json), which transformers would put onto the base unseen; "
            "merge it into the base, or take its two files out of the folder"
        )
    check_configs(folder)
    content = read_json(config)
    already = content.get("quantization_config") if isinstance(content, dict) else None
    if already is not None:
        raise BaseError(
            f"{folder}: its weights are quantized already ({already.get('quant_method')}), which would silently win "
            f"over base.quantization={quantization}; give the unquantized model"
        )


def check_configs(folder: Path) -> None:
    """Refuse a folder whose configs name code to run. Raises BaseError."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (path := folder / name).is_file():
            _check_config(path)


def check_complete(source: Path, model: Any, info: Mapping[str, Any]) -> None:
    """Raise BaseError when transformers' loading info says that weights of `model` were not in its files."""
    if missing := sorted(info["missing_keys"]):
        raise BaseError(
            f"{source}: {len(missing)} weights of {type(model).__name__} are not in its files ({', '.join(missing[:3])}"
            "…); they would be random, so this is no pretrained language model"
        )


def _check_config(path: Path) -> None:
    for key in _keys(read_json(path)):
        if key.lstrip("_").startswith(CODE_KEYS):
            raise BaseError(
                f"{path}: the key {key!r} names code to run, and no code of a model is ever run. If transformers "
                "has the architecture built in, remove the key from a local copy and load that"
            )


def read_json(path: Path, most_bytes: int = MAX_CONFIG_BYTES) -> Any:
    """A JSON file of bounded size. Raises BaseError when it is too large or broken."""
    if path.stat().st_size > most_bytes:
        raise BaseError(f"{path}: {path.stat().st_size} bytes is too large for a configuration")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BaseError(f"{path}: not readable as JSON: {error}") from None


def _keys(node: Any) -> Iterator[str]:
    """Every key of a JSON value, at any depth."""
    if isinstance(node, dict):
        yield from node
        for value in node.values():
            yield from _keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from _keys(value)
