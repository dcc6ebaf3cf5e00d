"""What others who load adapters make of a stored one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.errors import AdapterError
from pefttune.pipeline.parents import Parent, read_parent
from pefttune.recipe.adapters import Lora

if TYPE_CHECKING:
    from pefttune.publishing import Objection, Stored


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

    return publishing.Stored(
        read_config(adapter), methods.weights.low_rank_shapes(adapter.folder), adapter.manifest, model_type
    )


def _base_at_hand(adapter: Parent) -> Path | None:
    """The folder of its base, if it lies on this machine as it is."""
    from pefttune import bases

    told = adapter.manifest["base"]
    if told["hub_id"] is not None:
        return bases.local_folder(told["source"], told["revision"], told["origin"])
    known = bases.find_known(bases.Fingerprint(**told["fingerprint"]).digest)
    return None if known is None else bases.local_folder(known)


def read_config(adapter: Parent) -> dict[str, Any]:
    """PEFT's configuration of the adapter, read as strictly as loading reads it. Raises AdapterError where it would do
    harm, lacks what PEFT needs, or scales the adapter otherwise than its recipe."""
    from pefttune import inference, methods

    inference.check_config(adapter.folder, adapter.manifest)
    path = adapter.folder / methods.weights.CONFIG
    config = methods.configuration.read(adapter.folder, adapter.manifest["files"][path.name])
    wanted = methods.configuration.OF_LORA.keys() - {"modules_to_save"} if config["peft_type"] == "LORA" else set()
    if missing := [key for key in methods.configuration.OF_LORA if key in wanted - config.keys()]:
        raise AdapterError(f"{path} is damaged: {', '.join(missing)} missing")
    section = adapter.recipe.adapter
    if isinstance(section, Lora):
        own = section.stored()
        ours = {"r": own.rank, "lora_alpha": own.alpha, "use_rslora": own.use_rslora}
        if wrong := [key for key, value in ours.items() if config[key] != value]:
            raise AdapterError(f"{path} describes another adapter than the manifest: {', '.join(wrong)} differ")
    return config
