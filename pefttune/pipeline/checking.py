"""What others who load adapters make of a stored one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune.pipeline.parents import Parent, read_parent

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
    """PEFT's configuration of the adapter, whole, read as strictly as loading reads it. Raises AdapterError where it
    would do harm, or describes another adapter than recipe and weights."""
    from pefttune import inference, methods

    inference.check_config(adapter.folder, adapter.manifest)
    inference.check_described(adapter.folder, adapter.manifest)
    config = methods.configuration.read(adapter.folder, adapter.manifest["files"][methods.weights.CONFIG])
    return methods.agreement.completed(config)
