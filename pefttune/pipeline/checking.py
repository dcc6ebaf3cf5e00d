"""What others who load adapters make of a stored one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.errors import AdapterError
from pefttune.pipeline.parents import read_parent

if TYPE_CHECKING:
    from pefttune.publishing import Objection


OF_ALL: dict[str, Any] = {"peft_type": str}
OF_LORA = OF_ALL | {
    "r": int,
    "lora_alpha": int | float,
    "alpha_pattern": dict,
    "use_rslora": bool,
    "use_dora": bool,
    "modules_to_save": list | None,
}
"""What is taken of an `adapter_config.json`."""


def check(name: str, target: str, store_folder: Path | str = "adapters") -> list[Objection]:
    """What `target` (vllm, peft, llama.cpp or mlx) has against a stored adapter, nothing where it loads it as it was
    trained. Raises AdapterError."""
    from pefttune import methods, publishing

    adapter = read_parent(Path(store_folder), name)
    config = _read_config(adapter.folder / methods.weights.CONFIG)
    shapes = methods.weights.shapes(adapter.folder)
    return publishing.object_to(target, publishing.Stored(config, shapes, adapter.manifest))


def _read_config(path: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises AdapterError where it is none of PEFT's."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from None
    kinds = OF_LORA if isinstance(config, dict) and config.get("peft_type") == "LORA" else OF_ALL
    wrong = [
        key for key, kind in kinds.items() if not isinstance(config, dict) or not isinstance(config.get(key), kind)
    ]
    if not wrong and kinds is OF_LORA:
        numbers = {"r": config["r"], "lora_alpha": config["lora_alpha"], **config["alpha_pattern"]}
        wrong = [key for key, value in numbers.items() if not isinstance(value, int | float) or value < (key == "r")]
    if wrong:
        raise AdapterError(f"{path} is damaged: {', '.join(wrong)} missing or of the wrong kind")
    of_peft: dict[str, Any] = config
    return of_peft
