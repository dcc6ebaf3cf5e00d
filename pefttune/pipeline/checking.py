"""What others who load adapters make of a stored one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.errors import AdapterError
from pefttune.pipeline.parents import Parent, read_parent

if TYPE_CHECKING:
    from pefttune.publishing import Objection, Stored


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
    from pefttune import bases, publishing

    adapter = read_parent(Path(store_folder), name)
    base = _base_at_hand(adapter)
    model_type = None if base is None else bases.open_config(base).model_type
    return publishing.object_to(target, stored(adapter, model_type))


def stored(adapter: Parent, model_type: str | None) -> Stored:
    """What other programs see of the adapter, whose base is of that type. Raises AdapterError."""
    from pefttune import methods, publishing

    config = _read_config(adapter.folder / methods.weights.CONFIG)
    return publishing.Stored(config, methods.weights.shapes(adapter.folder), adapter.manifest, model_type)


def _base_at_hand(adapter: Parent) -> Path | None:
    """The folder of its base, if it lies on this machine as it is."""
    from pefttune import bases

    told = adapter.manifest["base"]
    if told["hub_id"] is not None:
        return bases.local_folder(told["source"], told["revision"], told["origin"])
    known = bases.find_known(bases.Fingerprint(**told["fingerprint"]).digest)
    return None if known is None else bases.local_folder(known)


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
